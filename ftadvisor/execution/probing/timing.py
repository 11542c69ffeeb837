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
MICRO_BATCHES = 3
"""Of an accumulated batch so many are trained: the first finds no gradients to add to, the last is
followed by the optimizer, and each of the others takes as long as the second."""


class ProbeCallback(stack.transformers.TrainerCallback):
    """Ends the training when it knows enough. `skipped`: micro-batches of a step that are not
    trained, and count as long as the last one that another follows."""

    def __init__(self, device: Device, *, skipped: int = 0, memory: bool = True) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.peaks: dict[str, int] = {}
        self._device = device
        self._memory = memory
        self._marks: Marks | None = None
        self._steps = 0
        self._spent = 0.0
        self._skipped = skipped
        self._start = self._before = self._micro = (0.0, 0.0)

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
        self._start = self._before = self._now()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A micro-batch is over, and another one of the step follows."""
        if self._skipped:
            now = self._now()
            self._micro = (now[0] - self._before[0], now[1] - self._before[1])
            self._before = now

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are there, and clipped."""
        if self._marks:
            self._marks.mark(OPTIMIZER)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The traced step is not timed."""
        if self._marks:
            self._marks.close()
            self.peaks = self._marks.peaks
            control.should_training_stop = True
            return
        wall, cpu = self._now()
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self._spent += wall - self._start[0]
            self.walls.append(wall - self._start[0] + self._skipped * self._micro[0])
            self.cpus.append(cpu - self._start[1] + self._skipped * self._micro[1])
        if self._timed() and not self._memory:
            control.should_training_stop = True

    def _now(self) -> tuple[float, float]:
        """Wall and CPU seconds, when a GPU has done what it was given."""
        if not self._device.is_cpu:
            stack.torch.cuda.synchronize(self._device.place)
        return time.perf_counter(), time.process_time()

    def _timed(self) -> bool:
        count = len(self.walls)
        return count >= MOST_STEPS or (count >= FEWEST_STEPS and self._spent > ENOUGH_SECONDS)

    @property
    def spread(self) -> float:
        """Of the timed steps, over their median."""
        return statistics.pstdev(self.walls) / statistics.median(self.walls)
