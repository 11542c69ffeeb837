"""Stops a run whose loss is no number, or has left all that it had learnt."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.journal import Journal

WINDOW = 5
GROWTH = 3.0
"""The mean of the last WINDOW losses over the lowest such mean from which learning is undone; a
run that only wavers stays below it. Ours, of no source: --force does not lift it, a lower learning
rate does."""


class DivergenceCallback(stack.transformers.TrainerCallback):
    """Ends the run; what was saved before stays."""

    def __init__(self, journal: Journal, *, may_grow: bool = False) -> None:
        self._journal = journal
        self._may_grow = may_grow
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._best = math.inf

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Look at each logged loss."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self._end(control, state, f"the loss is {loss}")
            return
        self._last.append(loss)
        if len(self._last) < WINDOW or self._may_grow:
            return
        mean = sum(self._last) / WINDOW
        if mean > GROWTH * self._best:
            self._end(control, state, f"the loss has grown from {self._best:.3g} to {mean:.3g}")
        self._best = min(self._best, mean)

    def _end(self, control: Any, state: Any, what: str) -> None:
        control.should_training_stop = True
        control.should_save = control.should_evaluate = False
        self._journal.end("diverged", "divergence", what, state.global_step)
