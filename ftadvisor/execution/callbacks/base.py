"""The model as it was, measured when an engine has divided it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftadvisor.execution import stack


class BaseCallback(stack.transformers.TrainerCallback):
    """Measures before the first step: FSDP2 and DeepSpeed prepare a model for training alone, so
    that it cannot be evaluated any earlier (accelerate 1.15 accelerator.py line 1517).
    """

    def __init__(self, measure: Callable[[], None]) -> None:
        self._measure = measure

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """By now the engine has it, and nothing is learnt."""
        self._measure()
