"""Stops a run whose loss is no number, or which is worse than before it began."""

from __future__ import annotations

import math
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.journal import Journal

FIRST, LAST = 5, 10
"""Losses that are compared. Were all 15 of one distribution, the last ten would all lie above the
first five in one of C(15, 5) = 3003 cases."""
MARGIN = math.log(2)
"""Nats. Beyond chance a loss may rise a little and fall again, as it does while the learning rate
warms up; a whole bit, of a token or of a class, is twice the perplexity that the run began with."""


class DivergenceCallback(stack.transformers.TrainerCallback):
    """Ends the run; what was saved before stays.

    Diverged: each of the last ten losses is over the highest of the first five by more than a bit,
    so that nothing that was learnt is left. While the loss is as high as that no checkpoint is
    written, so that the last one is good when the run ends. Comes after LogCallback, whose journal
    it reads: a resumed run is judged from its first step on.
    """

    def __init__(self, journal: Journal, *, may_grow: bool = False) -> None:
        self._journal = journal
        self._may_grow = may_grow

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Look at each logged loss."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        norm = float(logs.get("grad_norm") or 0.0)
        if not math.isfinite(loss):
            self._end(control, state, f"the loss is {loss}")
        elif not math.isfinite(norm) and not args.fp16:
            # fp16's scaler leaves such a step out; in other formats the weights are lost by it.
            self._end(control, state, f"the norm of the gradient is {norm}")
        elif not self._may_grow:
            self._compare(control, state)

    def _compare(self, control: Any, state: Any) -> None:
        losses = [row["loss"] for row in self._journal.losses[:FIRST]]
        bound = max(losses) + MARGIN
        last = [row["loss"] for row in self._journal.losses[FIRST:][-LAST:]]
        if len(last) == LAST and min(last) > bound:
            what = f"the loss has grown from {max(losses):.3g} to {min(last):.3g} and more"
            self._end(control, state, what)
        elif last and last[-1] > bound and self._journal.status != "interrupted":
            control.should_save = False

    def _end(self, control: Any, state: Any, what: str) -> None:
        control.should_training_stop = True
        control.should_save = control.should_evaluate = False
        self._journal.end("diverged", "divergence", what, state.global_step)
