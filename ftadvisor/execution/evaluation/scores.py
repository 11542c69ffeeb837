"""What the trainer's own loss says of each held-out row, and what the model decides for it."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from ftadvisor.execution import stack
from ftadvisor.execution.classes import CLASSIFYING
from ftadvisor.execution.evaluation.metrics import (
    Tally,
    classification,
    difference,
    mean,
    perplexity,
)
from ftadvisor.execution.starts import takes_from_base

MOST_BATCHES = 200
"""As many pieces make an interval narrow enough: more rows go through in larger batches."""
IGNORED = -100
PER_TOKEN = ("sft", "clm", "cpt", "seq2seq", "distillation")
"""Objectives whose loss is the mean over the answer's tokens."""
WEIGHTS = 3
"""The stage of ZeRO that divides weights; those before it leave them whole in every process."""
POLICY = ("grpo", "rloo")
DRAWING = (*POLICY, "distillation")
"""They evaluate by drawing answers: the trainer's own loop does it, and gives means alone."""
UNPAIRED = "kto"
"""Its rows are answers that are good or bad, one by one."""
FROM_ITSELF = ("dpo", "kto")
"""Rewards are distances from the model as it was: it prefers nothing to itself, right or wrong."""
NAMES = {
    "rewards/accuracies": "reward_accuracy", "accuracy": "reward_accuracy",
    "rewards/margins": "reward_margin", "margin": "reward_margin", "reward": "mean_reward",
    "kl": "kl", "mean_token_accuracy": "token_accuracy",
}  # fmt: skip
"""What TRL's trainers log, and what it is called here."""


def scores(trainer: Any, objective: str, *, base: bool) -> dict[str, Tally]:
    """Metrics of the held-out rows. `base`: of the model without what is trained."""
    if objective in DRAWING:
        # The same draws before and after, and none that training would miss.
        with stack.torch.random.fork_rng(), _alone(trainer, base=base):
            stack.torch.manual_seed(trainer.args.seed)
            found = trainer.evaluate()
        # The loss of a policy compares two of its own batches: the rewards tell how good it is.
        drawn = NAMES if objective in POLICY else {**NAMES, "loss": "eval_loss"}
        return {
            name: mean([float(value)])
            for key, value in found.items()
            if (name := drawn.get(key.removeprefix("eval_")))
        }
    if objective in CLASSIFYING:
        return _decided(trainer, base)
    return _lost(trainer, objective, base)


def is_sharded(trainer: Any) -> bool:
    """Whether no process has the whole model: all have to run it, each time that one does."""
    plugin = trainer.args.deepspeed_plugin
    return bool(trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == WEIGHTS))


def can_be_switched_off(model: Any) -> bool:
    """Whether the base is left when PEFT's disable_adapter is called: not where the adapter was cut
    out of it. Of prompts it asks for a function that models without a language head have not (peft
    0.21.2 peft_model.py line 1037).
    """
    if takes_from_base(model.active_peft_config):
        return False
    if not model.active_peft_config.is_prompt_learning:
        return True
    return hasattr(model.get_base_model(), "prepare_inputs_for_generation")


@contextmanager
def evaluating(trainer: Any, *, base: bool) -> Generator[Any]:
    """The model in evaluation, with the dtype of training; nothing of the run's state moves.

    `base`: without its adapter.
    """
    model, torch = trainer.model, stack.torch
    training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(), torch.random.fork_rng(), trainer.accelerator.autocast(),
            _alone(trainer, base=base), _as_prepared(trainer),
        ):  # fmt: skip
            yield model
    finally:
        model.train(training)


@contextmanager
def _as_prepared(trainer: Any) -> Generator[None]:
    """What the model puts out in fp32, as where it trains under autocast (accelerate 1.15
    accelerator.py, prepare_model). Of one that does not yet, or no more, TRL's trainers compute
    rewards and losses from halves: a change from before to after that nothing has learnt.
    """
    model = trainer.model
    if not trainer.accelerator.native_amp or hasattr(model, "_original_forward"):
        yield
        return
    own: Any = cast("dict[str, Any]", vars(model)).get("forward")
    model.forward = stack.accelerate.utils.convert_outputs_to_fp32(model.forward)
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def _alone(trainer: Any, *, base: bool) -> AbstractContextManager[None]:
    """Whole, or without its adapter. FSDP2 keeps for good what it first sees of an adapter, and one
    that is switched off does not train (torch 2.13 _fully_shard/_fsdp_param.py,
    init_unsharded_param): there the base is a model whose adapter has learnt nothing.
    """
    return base_alone(trainer.model) if base and not trainer.is_fsdp_enabled else nullcontext()


@contextmanager
def base_alone(model: Any) -> Generator[None]:
    """The model without its adapter, which need not start as nothing (FourierFT, C3A, prompts).

    What cannot be switched off stays: what was cut out of the base gives the base until it learns.
    """
    has_one = getattr(model, "active_peft_config", None) is not None
    with model.disable_adapter() if has_one and can_be_switched_off(model) else nullcontext():
        yield


def _lost(trainer: Any, objective: str, base: bool) -> dict[str, Tally]:
    per_token = objective in PER_TOKEN
    losses: list[float] = []
    weights: list[float] = []
    own: dict[str, list[tuple[float, float]]] = {}
    with evaluating(trainer, base=base) as model:
        logged = _logged(trainer)
        logged.clear()
        for rows in _batches(trainer, alone=objective == UNPAIRED):
            batch = trainer._prepare_inputs(trainer.data_collator(rows))
            weight = float(_num_tokens(batch, model) if per_token else len(rows))
            if not weight:
                continue
            loss, _, _ = trainer.prediction_step(model, batch, prediction_loss_only=True)
            losses.append(float(loss) - (_of_routers(trainer, logged) if per_token else 0.0))
            weights.append(weight)
            for key, values in logged.items():
                own.setdefault(key.removeprefix("eval_"), []).append((float(values[-1]), weight))
            logged.clear()
    found = {"eval_loss": mean(losses, weights)}
    if per_token:
        found["perplexity"] = perplexity(losses, weights)
    found |= {name: mean(*zip(*own[key], strict=True)) for key, name in NAMES.items() if key in own}
    found |= _unpaired(own) if objective == UNPAIRED else {}
    if base and objective in FROM_ITSELF:
        found.pop("reward_accuracy", None)
    return found


def _of_routers(trainer: Any, logged: dict[str, list[Any]]) -> float:
    """What a mixture's load balancing adds to the loss of a batch: it is no measure of the text
    (trl 1.16 trainer/sft_trainer.py, compute_loss).
    """
    values = logged.get("aux_loss")
    return float(values[-1]) * float(trainer.router_aux_loss_coef) if values else 0.0


def _logged(trainer: Any) -> dict[str, list[Any]]:
    """What TRL's trainers keep of each batch until they log it."""
    for name in ("_metrics", "_stored_metrics"):
        kept = getattr(trainer, name, None)
        if kept is not None:
            return kept["eval"]
    return {}


def _unpaired(own: dict[str, list[tuple[float, float]]]) -> dict[str, Tally]:
    """Of rows that are good or bad by themselves: whether the reward has that sign, and how far
    the good are above the bad."""
    chosen = [reward for reward, _ in own.get("rewards/chosen", ())]
    rejected = [reward for reward, _ in own.get("rewards/rejected", ())]
    right = [float(r > 0) for r in chosen] + [float(r < 0) for r in rejected]
    if not chosen or not rejected:
        return {"reward_accuracy": mean(right)} if right else {}
    return {"reward_accuracy": mean(right), "reward_margin": difference(chosen, rejected)}


def _decided(trainer: Any, base: bool) -> dict[str, Tally]:
    """Each row's loss and classes: of the text, or of each of its words."""
    losses: list[float] = []
    weights: list[float] = []
    pieces: list[list[tuple[int, int]]] = []
    with evaluating(trainer, base=base) as model:
        for rows in _batches(trainer):
            batch = trainer.data_collator(rows)
            loss, logits, labels = trainer.prediction_step(model, batch, False)
            true, predicted = _flat(labels), _flat(_first(logits).argmax(-1))
            piece = [pair for pair in zip(true, predicted, strict=True) if pair[0] != IGNORED]
            if piece:
                losses.append(float(loss))
                weights.append(float(len(piece)))
                pieces.append(piece)
    return {"eval_loss": mean(losses, weights), **classification(pieces)}


def _batches(trainer: Any, *, alone: bool = False) -> Iterator[list[Any]]:
    """The held-out rows one by one, of many rows more at once unless each is wanted `alone`."""
    rows = trainer.eval_dataset
    most = 1 if alone else trainer.args.per_device_eval_batch_size
    size = min(int(most), math.ceil(len(rows) / MOST_BATCHES))
    for start in range(0, len(rows), size):
        yield [rows[i] for i in range(start, min(start + size, len(rows)))]


def _num_tokens(batch: Any, model: Any) -> int:
    """Tokens that the loss is the mean of; a decoder predicts none for the first place."""
    labels = batch["labels"]
    if not model.config.is_encoder_decoder:
        labels = labels[..., 1:]
    return int((labels != IGNORED).sum())


def _flat(numbers: Any) -> list[int]:
    """A tensor's, in one list."""
    return numbers.flatten().tolist()


def _first(outputs: Any) -> Any:
    """Logits: some models put out more."""
    return cast("tuple[Any, ...]", outputs)[0] if isinstance(outputs, tuple) else outputs
