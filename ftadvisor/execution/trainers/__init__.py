"""The library's trainer for each objective. Each module imports its trainer when it builds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftadvisor.execution.trainers import classification, distillation, images, sequences, supervised
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
}
"""Objective to a function that makes its trainer."""
