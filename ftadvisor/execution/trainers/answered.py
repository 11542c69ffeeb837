"""TRL's DistillationTrainer where the data have answers too.

TRL 1.16's distils on what the student generates alone; its experimental GKD mixes in the data's
answers by `lmbda`, but makes all logits at once. Here the data's answers take the place of
generated ones, and everything after, the chunked divergence included, is TRL's.
"""

from __future__ import annotations

import random
from typing import Any

from ftadvisor.execution import stack

DistillationTrainer: Any = stack.trl.DistillationTrainer


class AnsweredTrainer(DistillationTrainer):
    """DistillationTrainer with `lmbda`, GKD's share of batches that the student answers itself."""

    lmbda: float = 1.0
    _answers: list[list[int]] | None = None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        # In evaluation wherever there are answers: figures before and after are then of one text.
        answers = [row.get("completion_ids") for row in inputs]
        self._answers = answers if all(answers) and not self._generates() else None
        return DistillationTrainer._generate_and_score_completions(self, inputs)

    def _generate_single_turn(self, prompt_ids: Any, *others: Any, **named: Any) -> Any:
        if self._answers is not None:
            return self._answers
        return DistillationTrainer._generate_single_turn(self, prompt_ids, *others, **named)

    def _generates(self) -> bool:
        """Drawn by the step, so that all processes and a resumed run draw alike."""
        if not self.model.training:
            return False
        return random.Random(f"{self.args.seed} {self.state.global_step}").random() < self.lmbda
