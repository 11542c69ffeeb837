"""What a run takes: seconds, tokens and memory, by the names of the estimate."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from functools import cache
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.allocations import Allocations
from ftadvisor.execution.device import Device
from ftadvisor.execution.journal import Journal
from ftadvisor.units import KIB

MAXRSS_BYTES = 1 if sys.platform == "darwin" else KIB
"""ru_maxrss is in kilobytes on Linux, in bytes on macOS (getrusage(2))."""


HOST_EVERY = 0.25
"""Seconds between two looks at the process's size, each of which takes 0.15 ms."""


class MeasuringCallback(stack.transformers.TrainerCallback):
    """Clocks each step; on a GPU reads the allocator's peaks, on a CPU watches some allocations."""

    def __init__(self, device: Device, journal: Journal, allocations: Allocations) -> None:
        self._device = device
        self._allocations = allocations
        self._journal = journal
        self._steps: list[float] = []
        self._start = self._before = self._looked = 0.0
        self._tokens_before = 0

    def follow(self, trainer: Any) -> None:
        """What it trains is there."""
        if self._device.is_cpu:
            self._allocations.follow(trainer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on it counts."""
        if not self._device.is_cpu:
            stack.torch.cuda.reset_peak_memory_stats(self._device.place)
        self._tokens_before = state.num_input_tokens_seen
        self._start = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step starts with its first micro-batch."""
        self._before = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are there, and clipped."""
        if self._device.is_cpu:
            self._allocations.before_optimizer()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are still there."""
        if self._device.is_cpu:
            self._allocations.after_optimizer()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The loss has been read, so that a GPU's work is done."""
        self._steps.append(time.monotonic() - self._before)
        self._journal.memory.append({"step": float(state.global_step), **self._peak()})

    def close(self, state: Any) -> None:
        """All figures to the journal, however training has ended; of the steps of this process."""
        self._allocations.close()
        found = self._journal.measured
        total = time.monotonic() - self._start if self._start else 0.0
        found |= {
            "total_seconds": self._journal.seconds_before + total,
            "num_steps": float(state.global_step),
        }
        # The first step warms up: kernels are chosen, optimizer states made.
        steps = self._steps[1:] or self._steps
        if steps:
            found["step_seconds"] = statistics.median(steps)
            tokens = state.num_input_tokens_seen - self._tokens_before
            if tokens:
                found["tokens_per_second"] = tokens / sum(self._steps)
                found["tokens_per_step"] = tokens / len(self._steps)
        found["host_bytes"] = float(peak_host_bytes())
        if not self._device.is_cpu:
            found |= _gpu_memory(self._device.place)
        peaks = [r["allocated_bytes"] for r in self._journal.memory if "allocated_bytes" in r]
        if peaks:
            found["allocated_bytes"] = max([*peaks, found.get("allocated_bytes", 0.0)])

    def _peak(self) -> dict[str, float]:
        """Of the step that ended: a GPU's counter starts anew; a process has but its size now, and
        the peak of a step that was watched.
        """
        if self._device.is_cpu:
            peak = self._allocations.of_step()
            found = {} if peak is None else {"allocated_bytes": float(peak)}
            now = time.monotonic()
            if now - self._looked >= HOST_EVERY:
                self._looked = now
                found["host_bytes"] = float(resident_bytes())
            return found
        cuda = stack.torch.cuda
        peak = float(cuda.max_memory_allocated(self._device.place))
        cuda.reset_peak_memory_stats(self._device.place)
        return {"allocated_bytes": peak}


def resident_bytes() -> int:
    """Of this process, now."""
    return _process(os.getpid()).memory_info().rss


@cache
def _process(pid: int) -> Any:
    # To find it costs more than to ask it, and it is asked after each step.
    return stack.psutil.Process(pid)


def peak_host_bytes() -> int:
    """The most that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def _gpu_memory(place: str) -> dict[str, float]:
    cuda = stack.torch.cuda
    free, total = cuda.mem_get_info(place)
    return {
        "allocated_bytes": float(cuda.max_memory_allocated(place)),
        "reserved_bytes": float(cuda.max_memory_reserved(place)),
        # The cache does not shrink: what is in use at the end is the peak, other processes' too.
        "device_bytes": float(total - free),
    }
