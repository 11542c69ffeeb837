"""What a run takes: seconds, tokens and memory, by the names of the estimate."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.journal import Journal
from ftadvisor.units import KIB

MAXRSS_BYTES = 1 if sys.platform == "darwin" else KIB
"""ru_maxrss is in kilobytes on Linux, in bytes on macOS (getrusage(2))."""


class MeasuringCallback(stack.transformers.TrainerCallback):
    """Clocks each step; on a GPU reads the allocator's peaks."""

    def __init__(self, device: Device, journal: Journal) -> None:
        self._device = device
        self._journal = journal
        self._steps: list[float] = []
        self._start = self._before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on it counts."""
        if not self._device.is_cpu:
            stack.torch.cuda.reset_peak_memory_stats(self._device.place)
        self._start = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step starts with its first micro-batch."""
        self._before = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The loss has been read, so that a GPU's work is done."""
        self._steps.append(time.monotonic() - self._before)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All figures to the journal."""
        total = time.monotonic() - self._start
        # The first step warms up: kernels are chosen, optimizer states made.
        steps = self._steps[1:] or self._steps
        found = self._journal.measured
        found |= {"total_seconds": total, "num_steps": float(len(self._steps))}
        if steps:
            found["step_seconds"] = statistics.median(steps)
            if state.num_input_tokens_seen:
                found["tokens_per_second"] = state.num_input_tokens_seen / sum(self._steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["host_bytes"] = float(peak * MAXRSS_BYTES)
        if not self._device.is_cpu:
            found |= _gpu_memory(self._device.place)


def _gpu_memory(place: str) -> dict[str, float]:
    cuda = stack.torch.cuda
    free, total = cuda.mem_get_info(place)
    return {
        "allocated_bytes": float(cuda.max_memory_allocated(place)),
        "reserved_bytes": float(cuda.max_memory_reserved(place)),
        # The cache does not shrink: what is in use at the end is the peak, other processes' too.
        "device_bytes": float(total - free),
    }
