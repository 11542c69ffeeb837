"""What the builders of TRL's trainers have in common."""

from __future__ import annotations

from functools import partial
from typing import Any

from ftadvisor.errors import InvalidSettingError, UnsupportedError, first_line
from ftadvisor.execution import stack
from ftadvisor.execution.adapting import peft_config
from ftadvisor.execution.arguments import total_steps
from ftadvisor.execution.examples import Row
from ftadvisor.execution.trainers.orthogonal import orthogonal
from ftadvisor.execution.training import Training
from ftadvisor.sources.techniques import find_technique


def built(of: Training, trainer: Any, **options: Any) -> Any:
    """The trainer on the model.

    Raises UnsupportedError for what TRL or PEFT refuse, InvalidSettingError where max_length leaves
    nothing to learn from.
    """
    technique = find_technique(of.plan.technique)
    try:
        found = class_of(of, trainer)(
            model=of.model, processing_class=of.tokenizer, callbacks=of.callbacks, **options
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        what = first_line(error)
        raise UnsupportedError.of(
            f"{technique.name} with objective {of.plan.objective}",
            f"{trainer.__name__} says {what}",
        ) from error
    given = options.get("eval_dataset")
    say_what_is_not_evaluated(of, found, len(given) if given is not None else 0)
    return found


def class_of(of: Training, trainer: Any) -> Any:
    """The trainer's class; for AdaLoRA with the regularisation that TRL leaves out."""
    return orthogonal(trainer) if of.plan.technique == "adalora" else trainer


def adapter_of(of: Training) -> dict[str, Any]:
    """PEFT's configuration for a trainer that makes the adapter itself.

    An adapter that these trainers are handed they take for a trained one, and keep a copy of it as
    the reference (trl 1.16 trainer/dpo_trainer.py line 666); one that they make they switch off.
    """
    if find_technique(of.plan.technique).trains_base:
        return {}
    steps = total_steps(of.plan, of.settings, of.run, len(of.examples.train))
    return {"peft_config": peft_config(of.model, of.settings, steps)}


def datasets_of(train: list[Row], held_out: list[Row]) -> dict[str, Any]:
    """Both as the `datasets` library has them.

    Objects whose keys differ stay as they are: in a struct, Arrow's usual kind, every call of a
    tool would get the arguments of all others, empty.
    """
    make = partial(stack.datasets.Dataset.from_list, on_mixed_types="use_json")
    return {
        "train_dataset": make(train),
        "eval_dataset": make(held_out) if held_out else None,
    }


def evenly(of: Training, held_out: list[Row]) -> tuple[int, list[Row]]:
    """Held-out rows in batches of one size, and that size: TRL's trainers that draw answers log
    means of batches, where the rows of a small one count more; and a loader fills the last one of
    several processes with rows a second time (accelerate 1.15 data_loader.py, even_batches).
    """
    world, count = of.device.world_size, len(held_out)
    most = min(int(of.settings.micro_batch_size), count // world)
    if most:
        # Down to half of what fits in the memory: the one that leaves fewest rows out.
        size = min(range(most, most // 2, -1), key=lambda size: count % (size * world))
        left = count % (size * world)
    else:
        # One row in each process.
        size, left = 1, max(0, count - 1)
    if left:
        say_once(of, f"{left} held-out rows are left out: batches of one size do not take them")
    return size, held_out[: count - left]


def say_what_is_not_evaluated(of: Training, trainer: Any, count: int) -> None:
    """Held-out rows that max_length leaves nothing of; `count` were given. Where it leaves nothing
    of all of them, the run goes on without.
    """
    if trainer.eval_dataset is None:
        return
    left = len(trainer.eval_dataset)
    if left:
        if left < count:
            say_once(of, f"{count - left} held-out examples are not evaluated: max_length leaves"
                     " nothing of them")  # fmt: skip
        return
    trainer.eval_dataset = None
    # With --eval-steps the Trainer would ask for them in the middle of the training.
    trainer.args.eval_strategy = "no"
    of.journal.say("data", "max_length leaves nothing of what was held out to evaluate")


def say_once(of: Training, what: str) -> None:
    """Of the data, whatever part of them it was found in."""
    if what not in {event.what for event in of.journal.events}:
        of.journal.say("data", what)


def say_what_was_cut(of: Training, trainer: Any, count: int) -> None:
    """TRL drops without a word what max_length leaves nothing of; `count` examples were given."""
    left = len(trainer.train_dataset)
    if not left:
        raise InvalidSettingError(
            f"max_length {of.settings.max_length} is shorter than every example: nothing is left to"
            " learn from.",
            [f"--max-length {2 * int(of.settings.max_length)}"],
        )
    if left < count:
        of.journal.say(
            "data", f"{count - left} examples left out: max_length leaves nothing to learn"
        )
