"""A callback that times a slice's steps and then watches the memory of one more."""

from __future__ import annotations

import statistics
import time
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.probing.marks import OPTIMIZER, Marks

WARM_UP_STEPS, FEWEST_STEPS, MOST_STEPS = 2, 3, 12
ENOUGH_SECONDS = 4.0
"""After so long, and the fewest steps, a slice has been timed."""


class ProbeCallback(stack.transformers.TrainerCallback):
    """Ends the training when it knows enough."""

    def __init__(self, device: Device, *, memory: bool = True) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.peaks: dict[str, int] = {}
        self._device = device
        self._memory = memory
        self._marks: Marks | None = None
        self._steps = 0
        self._start = (0.0, 0.0)

    def on_step_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """A step starts with its first micro-batch."""
        if self._memory and self._timed():
            self._marks = Marks(model, optimizer, self._device)
        self._start = (time.perf_counter(), time.process_time())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are there, and clipped."""
        if self._marks:
            self._marks.mark(OPTIMIZER)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the GPU; the traced step is not timed."""
        if self._marks:
            self._marks.close()
            self.peaks = self._marks.peaks
            control.should_training_stop = True
            return
        if not self._device.is_cpu:
            stack.torch.cuda.synchronize(self._device.place)
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self.walls.append(time.perf_counter() - self._start[0])
            self.cpus.append(time.process_time() - self._start[1])
        if self._timed() and not self._memory:
            control.should_training_stop = True

    def _timed(self) -> bool:
        count = len(self.walls)
        return count >= MOST_STEPS or (count >= FEWEST_STEPS and sum(self.walls) > ENOUGH_SECONDS)

    @property
    def spread(self) -> float:
        """Of the timed steps, over their median."""
        return statistics.pstdev(self.walls) / statistics.median(self.walls)
