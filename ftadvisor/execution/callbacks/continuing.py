"""What TRL's trainers do not find again in a checkpoint."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.journal import Journal


class ContinuingCallback(stack.transformers.TrainerCallback):
    """A run that goes on reads its prompts in the order of its own pass, and counts on.

    Trainers that draw answers order the prompts by a generator of their own, which begins anew: a
    later pass would be the first one again (trl 1.16 trainer/utils.py, RepeatSampler). Comes after
    LogCallback, whose journal it reads.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._trainer: Any = None
        self._sampler: Any = None

    def follow(self, trainer: Any) -> None:
        """Know the trainer, and the sampler that it will make."""
        self._trainer = trainer
        make = trainer._get_train_sampler

        def made(*args: Any, **options: Any) -> Any:
            self._sampler = make(*args, **options)
            return self._sampler

        trainer._get_train_sampler = made

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw the orders of the passes that are over; the tokens that were learnt from stay."""
        if not state.global_step:
            return
        if hasattr(self._sampler, "mini_repeat_count"):
            for _pass in range(int(state.epoch)):
                stack.torch.randperm(self._sampler.num_samples, generator=self._sampler.generator)
        counted = self._journal.losses[-1].get("num_tokens") if self._journal.losses else None
        if counted is not None and hasattr(self._trainer, "_total_train_tokens"):
            self._trainer._total_train_tokens = int(counted)
