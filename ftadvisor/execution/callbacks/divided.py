"""What can be done only when an engine has divided the model, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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


class LoadedError(Exception):
    """The checkpoint is loaded, and no step is to be made."""


class LoadingCallback(stack.transformers.TrainerCallback):
    """Ends a training that would only load what is trained already."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """By now the engine has the checkpoint's weights."""
        raise LoadedError


def load_divided(trainer: Any, checkpoint: str) -> None:
    """A checkpoint of which no step is left: engines load one into a model that they have divided,
    which they do for a training alone.
    """
    trainer.callback_handler.callbacks.insert(0, LoadingCallback())
    with suppress(LoadedError):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.is_in_train = False
