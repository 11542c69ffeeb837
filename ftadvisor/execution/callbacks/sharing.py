"""Several processes really train as one."""

from __future__ import annotations

from typing import Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.execution import stack


class SharingCallback(stack.transformers.TrainerCallback):
    """Stops a run whose processes would each train alone: nothing else would show it."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """By now the model has been wrapped, or never will be."""
        wrapped = self._trainer.model_wrapped
        if not isinstance(wrapped, stack.torch.nn.parallel.DistributedDataParallel):
            raise UnsupportedError.of(
                f"DDP of a {type(wrapped).__name__}", "the Trainer has not wrapped it",
                ["--num-processes 1"],
            )  # fmt: skip
