"""The loss of a step as the mean over all its labels, however it is cut into micro-batches.

Transformers' Trainer takes each model whose forward has `**kwargs` for one that divides its loss by
`num_items_in_batch` (5.23 trainer.py line 517), and does not divide it itself. Heads that classify
and T5 take the number and return a plain mean (modeling_layers.py,
GenericForSequenceClassification; models/bert, models/t5): loss and gradient would be as many times
too large as a step has micro-batches and processes, and clipped for it.
"""

from __future__ import annotations

from typing import Any

IGNORED = -100


def weighted(trainer: Any) -> Any:
    """The trainer's class; each micro-batch's mean counts by its share of the step's labels."""

    class WeightedTrainer(trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:  # fmt: skip
            # The model is not told the number: one that divides by it would do so twice.
            found: Any = trainer.compute_loss(self, model, inputs, return_outputs)
            if num_items_in_batch is None:
                return found
            labels = inputs["labels"][..., 1:] if self._loss_shifts_labels else inputs["labels"]
            # DDP takes the mean of the processes, and the number is of all of them.
            own = labels.ne(IGNORED).sum() * self.accelerator.num_processes
            loss: Any = (found[0] if return_outputs else found) * (own / num_items_in_batch)
            return (loss, *found[1:]) if return_outputs else loss

    WeightedTrainer.__name__ = trainer.__name__
    return WeightedTrainer
