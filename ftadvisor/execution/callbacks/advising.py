"""`FtadvisorCallback`: predicted against actual, in anybody's Transformers or TRL trainer."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from ftadvisor.errors import FtadvisorError
from ftadvisor.execution import stack
from ftadvisor.execution.device import find_device
from ftadvisor.execution.launching import strategy_of
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.own_rows import Ran, row_of
from ftadvisor.sources.records import append_record
from ftadvisor.units import format_bytes, format_duration

SAID_AFTER = 5
"""Steps: the first warms up."""


class FtadvisorCallback(stack.transformers.TrainerCallback):
    """Prints what was predicted and what a step takes, and records the measurement at the end.

    `estimate` is what `ftadvisor.estimate` answers for the run, with the settings that the trainer
    was given; without it only what is measured is printed, and nothing is recorded, for the row
    would not say what was run.
    """

    def __init__(self, estimate: Estimate | None = None, *, record: bool = True) -> None:
        self._estimate = estimate
        self._record = record and estimate is not None
        self._steps: list[float] = []
        self._start = 0.0
        self._device = find_device()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on peaks count."""
        self._steps = []
        if not self._device.is_cpu:
            stack.torch.cuda.reset_peak_memory_stats(self._device.place)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step starts with its first micro-batch."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say it once, when steps have settled."""
        if not self._device.is_cpu:
            stack.torch.cuda.synchronize(self._device.place)
        self._steps.append(time.perf_counter() - self._start)
        if len(self._steps) == SAID_AFTER and state.is_world_process_zero:
            self._say()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The row, where there is an estimate that says what was run."""
        if not state.is_world_process_zero or not self._steps:
            return
        if len(self._steps) < SAID_AFTER:
            self._say()
        if not self._record or len(self._steps) < 3:
            return
        assert self._estimate is not None
        e = self._estimate
        given: dict[str, Any] = {"objective": e.objective, **e.settings}
        planned = Settings(technique=e.technique, **given)
        settings = replace(planned, num_gpus=args.world_size, strategy=strategy_of(args))
        predicted = self.predicted()
        if settings != planned:
            predicted = {}
            _print(
                f"the estimate is of {_shared(planned)}, this ran on {_shared(settings)}: recorded"
                " without what was predicted"
            )
        row = row_of(
            Ran(
                e.model, e.trainer, settings, self._device.name, "callback", "done",
                self.measured(), predicted,
            )
        )  # fmt: skip
        try:
            append_record(row)
        except FtadvisorError as error:
            _print(f"not recorded: {error.message}")

    def measured(self) -> dict[str, float]:
        """Median step, and on a GPU the peaks."""
        found = {"step_seconds": statistics.median(self._steps[1:] or self._steps)}
        if len(self._steps) > 2:
            spread = statistics.pstdev(self._steps[1:]) / found["step_seconds"]
            found["step_seconds_spread"] = spread
        if not self._device.is_cpu:
            cuda, place = stack.torch.cuda, self._device.place
            free, total = cuda.mem_get_info(place)
            found["allocated_bytes"] = float(cuda.max_memory_allocated(place))
            found["reserved_bytes"] = float(cuda.max_memory_reserved(place))
            found["device_bytes"] = float(total - free)
        return found

    def predicted(self) -> dict[str, float]:
        """The estimate's figures by the same names."""
        if self._estimate is None:
            return {}
        memory, t = self._estimate.memory, self._estimate.time
        found = {
            "allocated_bytes": float(memory.allocated_bytes),
            "reserved_bytes": float(memory.reserved_bytes),
            "device_bytes": float(memory.device_bytes),
        }
        return found | ({"step_seconds": t.step_seconds} if t else {})

    def _say(self) -> None:
        predicted = self.predicted()
        for name, value in self.measured().items():
            if name == "step_seconds_spread":
                continue
            form = format_duration if name.endswith("seconds") else format_bytes
            said = f", predicted {form(predicted[name])}" if name in predicted else ""
            _print(f"{name} {form(value)}{said}")


def _shared(settings: Settings) -> str:
    gpus = f"{int(settings.num_gpus)} GPU{'s' * (settings.num_gpus != 1)}"
    return gpus if settings.strategy == "none" else f"{gpus} with {settings.strategy}"


def _print(said: str) -> None:
    # A library's callback prints where the trainer's own progress is printed.
    print(f"ftadvisor: {said}", file=sys.stderr)  # noqa: T201
