"""reward: TRL's RewardTrainer, a number for each answer."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import arguments, stack
from ftadvisor.execution.trainers.building import built, datasets_of, say_what_was_cut
from ftadvisor.execution.training import Training

HEAD = ("reward",)
"""The one class that the classification head has."""


def head_of(objective: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of the objective's head: the data's, or a reward's one."""
    return HEAD if objective == "reward" else labels


def build(of: Training) -> Any:
    """Chosen gets a higher number than rejected."""
    evaluates = bool(of.examples.held_out)
    args = stack.trl.RewardConfig(
        **arguments.common(of.plan, of.settings, of.run, of.device, evaluates=evaluates),
        max_length=of.settings.max_length,
        disable_dropout=not of.settings.lora_dropout,
    )
    found = built(
        of, stack.trl.RewardTrainer, args=args,
        **datasets_of(of.examples.train, of.examples.held_out),
    )  # fmt: skip
    say_what_was_cut(of, found, len(of.examples.train))
    return found
