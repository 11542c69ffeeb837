"""The library's trainer for each objective. Each module imports its trainer when it builds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftadvisor.execution.trainers import (
    classification,
    distillation,
    images,
    policy,
    preference,
    reward,
    sequences,
    supervised,
)
from ftadvisor.execution.training import Training


def _sft(of: Training) -> Any:
    return (images if of.examples.has_images else supervised).build(of)


BUILDERS: dict[str, Callable[[Training], Any]] = {
    "sft": _sft,
    "clm": supervised.build,
    "cpt": supervised.build,
    "distillation": distillation.build,
    "seq_cls": classification.build_sequence,
    "token_cls": classification.build_token,
    "seq2seq": sequences.build,
    "dpo": preference.build_dpo,
    "kto": preference.build_kto,
    "orpo": preference.build_orpo,
    "reward": reward.build,
    "grpo": policy.build,
    "rloo": policy.build,
}
"""Objective to a function that makes its trainer."""
MAKES_THE_ADAPTER = ("dpo", "kto", "grpo", "rloo")
"""Their trainers are given the model as it is: see building.adapter_of."""
