"""How far the run is: a bar on a terminal, else a line now and then; on standard error."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ftadvisor.execution import stack
from ftadvisor.execution.allocations import Allocations
from ftadvisor.execution.callbacks.measuring import peak_host_bytes, resident_bytes
from ftadvisor.execution.device import Device
from ftadvisor.schema.estimate import Estimate
from ftadvisor.units import format_bytes, format_duration

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
REFRESH = 0.25
"""Seconds between two looks of the bar."""


class ProgressCallback(stack.transformers.TrainerCallback):
    """Step, loss, tokens/s, memory now and at its peak, seconds a step, time left; what was
    predicted beside what is.
    """

    def __init__(
        self,
        device: Device,
        predicted: Estimate,
        allocations: Allocations,
        console: Console | None = None,
    ) -> None:
        self._device = device
        self._allocations = allocations
        self._predicted = predicted
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._start = self._said = 0.0
        self._first = self._tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The bar appears."""
        self._start = time.monotonic()
        self._said = 0.0
        self._first, self._tokens = state.global_step, state.num_input_tokens_seen
        if not state.is_world_process_zero or not self._console.is_terminal:
            return
        # Without a thread of its own: it is drawn when there is something new.
        self._bar = Progress(
            BarColumn(20), TextColumn("{task.description}", markup=False),
            console=self._console, auto_refresh=False, transient=True,
        )  # fmt: skip
        self._bar.add_task("the first step", total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """After each step, if there was nothing said just before."""
        if not self._start or not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if now - self._said < (REFRESH if self._bar else EVERY) and not last:
            return
        self._said = now
        line = self._line(state, float(logs["loss"]), now - self._start)
        if self._bar:
            self._bar.update(
                self._bar.task_ids[0], completed=state.global_step, description=line, refresh=True
            )
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self, state: Any) -> None:
        """The terminal is as it was, however training has ended."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _line(self, state: Any, loss: float, seconds: float) -> str:
        steps = state.global_step - self._first
        a_step = seconds / steps
        tokens = (state.num_input_tokens_seen - self._tokens) / seconds
        time_of = self._predicted.time
        said = f" (predicted {format_duration(time_of.step_seconds)})" if time_of else ""
        left = (state.max_steps - state.global_step) * a_step
        return (
            f"step {state.global_step:,}/{state.max_steps:,} · loss {loss:.4g}"
            f" · {tokens:,.0f} tokens/s · {self._memory()}"
            f" · {format_duration(a_step)} a step{said} · {format_duration(left)} left"
        )

    def _memory(self) -> str:
        if self._device.is_cpu and self._allocations.peak:
            now, peak = self._allocations.now, self._allocations.peak
            predicted = self._predicted.memory.allocated_bytes
        elif self._device.is_cpu:
            now, peak, predicted = resident_bytes(), peak_host_bytes(), None
        else:
            cuda = stack.torch.cuda
            now = cuda.memory_reserved(self._device.place)
            peak = cuda.max_memory_reserved(self._device.place)
            predicted = self._predicted.memory.reserved_bytes
        parts = [f"peak {format_bytes(peak)}"]
        parts += [f"predicted {format_bytes(predicted)}"] if predicted else []
        return f"memory {format_bytes(now)} ({', '.join(parts)})"
