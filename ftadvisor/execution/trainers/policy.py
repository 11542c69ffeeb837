"""grpo and rloo: TRL's trainers that answer prompts and learn from a reward."""

from __future__ import annotations

from typing import Any

from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import arguments, stack
from ftadvisor.execution.examples import Row
from ftadvisor.execution.preferences import check_batch
from ftadvisor.execution.rewards import find_function, load_reward_model
from ftadvisor.execution.trainers.building import adapter_of, built, datasets_of, evenly
from ftadvisor.execution.training import Training

NAMES = {"grpo": "GRPO", "rloo": "RLOO"}


def build(of: Training) -> Any:
    """TRL's trainer with the reward that the run names."""
    name = NAMES[of.plan.objective]
    train, held_out = _short(of, of.examples.train), _short(of, of.examples.held_out)
    if not train:
        raise InvalidSettingError(
            f"max_length {of.settings.max_length} is shorter than every prompt.",
            [f"--max-length {2 * int(of.settings.max_length)}"],
        )
    if len(train) < len(of.examples.train):
        # All of them were enough: preflight has counted.
        check_batch(of.plan.objective, of.settings, len(train))
    rows_at_once, held_out = evenly(of, held_out)
    options = {
        **_options(of, evaluates=bool(held_out)), "per_device_eval_batch_size": rows_at_once,
    }  # fmt: skip
    args = getattr(stack.trl, f"{name}Config")(**options)
    return built(
        of, getattr(stack.trl, f"{name}Trainer"), args=args,
        **_rewards(of), **datasets_of(train, held_out), **adapter_of(of),
    )  # fmt: skip


def _options(of: Training, *, evaluates: bool) -> dict[str, Any]:
    found = arguments.common(of.plan, of.settings, of.run, of.device, evaluates=evaluates)
    return {
        **found,
        # TRL's default is 0.0 for GRPO: no reference, no KL.
        "beta": of.plan.settings["beta"],
        "num_generations": of.settings.num_generations,
        # An answer a prompt is enough to average over, and any batch divides by one.
        "num_generations_eval": 1,
        "max_completion_length": of.settings.max_completion_length,
        "disable_dropout": not of.settings.lora_dropout,
        # TRL counts them itself: its batches hold no ids yet (grpo_trainer.py line 2292).
        "include_num_input_tokens_seen": "no",
    }


def _rewards(of: Training) -> dict[str, Any]:
    if of.run.reward_function is not None:
        if not of.plan.settings["beta"]:
            of.journal.say("reward", "beta 0: no reference, and no distance to it is measured")
        return {"reward_funcs": find_function(of.run.reward_function)}
    model, tokenizer = load_reward_model(str(of.run.reward_model), of.settings, of.device)
    return {"reward_funcs": model, "reward_processing_classes": tokenizer}


def _short(of: Training, rows: list[Row]) -> list[Row]:
    """Prompts of at most max_length tokens: TRL cuts none, it has no max_prompt_length now."""
    keep = [row for row in rows if _length(of, row["prompt"]) <= of.settings.max_length]
    if len(keep) < len(rows):
        of.journal.say("data", f"{len(rows) - len(keep)} prompts left out: longer than max_length")
    if of.run.reward_function is None:
        # What stands beside a prompt is for functions.
        return [{"prompt": row["prompt"]} for row in keep]
    return keep


def _length(of: Training, prompt: list[Row]) -> int:
    text = of.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return len(of.tokenizer(text, add_special_tokens=False)["input_ids"])
