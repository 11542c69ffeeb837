"""`FtadvisorCallback`: predicted against actual, in anybody's Transformers or TRL trainer."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ftadvisor.errors import FtadvisorError
from ftadvisor.execution import stack
from ftadvisor.execution.arguments import as_given
from ftadvisor.execution.device import find_device
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import catalogue_row
from ftadvisor.sources.own_rows import Ran, gpu_name, row_of
from ftadvisor.sources.records import append_record
from ftadvisor.units import format_bytes, format_duration

SAID_AFTER = 5
"""Steps: the first warms up."""
ASKED = ("max_length", "max_completion_length")
"""Lengths that a person sets."""
MOST_READ = 1000
"""Rows of a dataset, evenly spaced, whose lengths are read."""


class FtadvisorCallback(stack.transformers.TrainerCallback):
    """Prints what was predicted and what a step takes, and records the measurement at the end.

    `estimate` is what `ftadvisor.estimate` answers for the run, with the settings that the trainer
    was given; where the trainer's arguments say otherwise they count, which is said, and nothing is
    predicted. Without an estimate only what is measured is printed, and nothing is recorded, for
    the row would not say what was run.
    """

    def __init__(self, estimate: Estimate | None = None, *, record: bool = True) -> None:
        self._estimate = estimate
        self._record = record and estimate is not None
        self._steps: list[float] = []
        self._start = 0.0
        self._device = find_device()
        self._planned: Settings | None = None
        if estimate is not None:
            given: dict[str, Any] = {"objective": estimate.objective, **estimate.settings}
            self._planned = Settings(technique=estimate.technique, **given)
        self._ran = self._planned
        self._model = estimate.model if estimate else ""
        self._here = gpu_name(self._device.name)
        self._elsewhere = estimate is not None and estimate.gpu not in (None, self._here)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """From here on peaks count."""
        self._steps = []
        place = str(getattr(getattr(model, "config", None), "name_or_path", "") or "")
        if place and Path(place).exists() and catalogue_row(self._model) is None:
            # An estimate knows a directory by its last part only.
            self._model = place
        said = self._compared(args, state)
        if said and state.is_world_process_zero:
            _print(said)
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

    def on_train_end(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any
    ) -> None:
        """The row, where there is an estimate that says what was run."""
        if not state.is_world_process_zero or not self._steps:
            return
        if len(self._steps) < SAID_AFTER:
            self._say()
        if not self._record or len(self._steps) < 3:
            return
        if self._ran is None or self._estimate is None:
            return
        e, measured = self._estimate, self.measured()
        row = row_of(
            Ran(
                self._model, e.trainer, _with_lengths(self._ran, train_dataloader),
                self._device.name, "callback", "done", measured, self.predicted(),
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
        """The estimate's figures by the same names; none where it is of another run."""
        if self._estimate is None or self._elsewhere or self._ran != self._planned:
            return {}
        memory, t = self._estimate.memory, self._estimate.time
        found = {
            "allocated_bytes": float(memory.allocated_bytes),
            "reserved_bytes": float(memory.reserved_bytes),
            "device_bytes": float(memory.device_bytes),
        }
        return found | ({"step_seconds": t.step_seconds} if t else {})

    def _compared(self, args: Any, state: Any) -> str:
        """Take from the arguments what really runs; how the estimate differs, or nothing."""
        if self._planned is None or self._estimate is None:
            return ""
        try:
            ran = as_given(self._planned, args)
        except FtadvisorError as error:
            self._ran = None
            return f"not recorded, nothing predicted: {error}"
        if args.auto_find_batch_size:
            # What was found stands in the state alone.
            ran = replace(ran, micro_batch_size=state.train_batch_size)
        self._ran = ran
        other = [*_differences(self._planned, ran)]
        if self._elsewhere:
            other.append(f"gpu {self._here} (estimated: {self._estimate.gpu})")
        if ran == self._planned and not other:
            return ""
        said = ", ".join(other)
        return f"this runs with {said}: recorded so, and without what was predicted"

    def _say(self) -> None:
        predicted = self.predicted()
        for name, value in self.measured().items():
            if name == "step_seconds_spread":
                continue
            form = format_duration if name.endswith("seconds") else format_bytes
            said = f", predicted {form(predicted[name])}" if name in predicted else ""
            _print(f"{name} {form(value)}{said}")


def _with_lengths(ran: Settings, dataloader: Any) -> Settings:
    """With the lengths of the rows that were trained on, where they stand in a table: without its
    data an estimate's are a guess, by which the machine would be called slow or fast."""
    table: Any = getattr(dataloader, "dataset", None)
    if ran.packing or "input_ids" not in (getattr(table, "column_names", None) or ()):
        return ran
    # An IterableDataset has no length, and what is read of it is gone.
    if not hasattr(table, "__len__") or not len(table):
        return ran
    every = math.ceil(len(table) / MOST_READ)
    rows = table.select(range(0, len(table), every)).with_format(None)["input_ids"]
    lengths = [min(len(row), int(ran.max_length)) for row in rows]
    return replace(ran, mean_length=statistics.fmean(lengths), longest_length=max(lengths))


def _differences(planned: Settings, ran: Settings) -> Iterator[str]:
    for field in fields(Settings):
        before, now = getattr(planned, field.name), getattr(ran, field.name)
        # The other lengths follow from max_length and packing.
        if before != now and not (field.name.endswith("_length") and field.name not in ASKED):
            yield f"{field.name} {now} (estimated: {before})"


def _print(said: str) -> None:
    # A library's callback prints where the trainer's own progress is printed.
    print(f"ftadvisor: {said}", file=sys.stderr)  # noqa: T201
