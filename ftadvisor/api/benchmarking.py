"""`benchmark`: several techniques on one model and dataset, probed and trained side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftadvisor.api.probing import probe
from ftadvisor.api.run_plans import plan_of
from ftadvisor.api.running import run
from ftadvisor.errors import (
    FtadvisorError,
    InvalidSettingError,
    MissingExtraError,
    UnsupportedError,
)
from ftadvisor.schema.benchmark import Benched, Benchmark
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.probe import Probe
from ftadvisor.schema.report import Report
from ftadvisor.sources.techniques import find_task
from ftadvisor.units import MINUTE


def benchmark(
    model: str,
    dataset: str | os.PathLike[str],
    techniques: tuple[str, ...] | list[str],
    *,
    train: bool = False,
    train_tokens: int | None = None,
    train_minutes: float | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Benchmark:
    """Each technique's probe and, where `train` is set, its run with the same budget.

    `train_tokens` gives all the same tokens, `train_minutes` the same time by the steps that the
    probe measured; without either each trains what its plan says. Settings are those of `run`.
    A technique that cannot be had here is a row with the reason. Needs the `run` extra.
    """
    if not techniques:
        raise InvalidSettingError("techniques is empty.", ["--techniques lora full"])
    _check_budget(train_tokens, train_minutes)
    for name in techniques:
        find_task(name, options.get("objective"))
    of_all = {**options, "model": model, "dataset": os.fspath(dataset)}
    place = Path(output_dir) if output_dir is not None else Path("benchmark")
    train = train or train_tokens is not None or train_minutes is not None
    if train:
        _check_places(place, techniques)
    seconds = None if train_minutes is None else MINUTE * train_minutes
    rows: list[Benched] = []
    for technique in dict.fromkeys(techniques):
        row = Benched(technique=technique, probe=None, report=None)
        try:
            plan = plan_of(None, {**of_all, "technique": technique})
            row = replace(row, probe=probe(plan))
            if train and row.probe:
                steps = _steps(plan, row.probe, train_tokens, seconds)
                report = _trained(plan, steps, place / technique)
                ended = None if report.status == "done" else f"its training ended: {report.status}"
                row = replace(row, report=report, problem=ended)
        except FtadvisorError as error:
            row = replace(row, problem=_why(error))
        rows.append(row)
    return Benchmark(
        model=model,
        dataset=os.fspath(dataset),
        rows=tuple(rows),
        train_tokens=train_tokens,
        train_seconds=seconds,
    )


def _why(error: FtadvisorError) -> str:
    """In a row; of what is not installed with what installs it."""
    further = error.suggestions if isinstance(error, MissingExtraError) else ()
    return " ".join((error.message, *further))


def _check_budget(tokens: int | None, minutes: float | None) -> None:
    if tokens is not None and minutes is not None:
        raise InvalidSettingError(
            "train_tokens and train_minutes both say how long is trained.", ["--train-tokens only"]
        )
    for name, value in (("train_tokens", tokens), ("train_minutes", minutes)):
        if value is not None and not value > 0:
            raise InvalidSettingError.of(name, value, "be a number above 0")


def _check_places(place: Path, techniques: Iterable[str]) -> None:
    """Where runs go is new or empty and can be written: else one would learn it after the probe."""
    from ftadvisor.execution.places import check_place

    for technique in techniques:
        check_place(place / technique)


def _trained(plan: Plan, steps: int | None, place: Path) -> Report:
    if steps is None:
        return run(plan, output_dir=place)
    return run(plan, output_dir=place, max_steps=steps)


def _steps(plan: Plan, probed: Probe, tokens: int | None, seconds: float | None) -> int | None:
    """Optimizer steps of a budget; None: as many as the plan says."""
    s = plan.estimate.settings
    if tokens is not None:
        rows = s["micro_batch_size"] * s["gradient_accumulation_steps"] * s["num_gpus"]
        each = rows * s["mean_length"]
        return max(1, math.ceil(tokens / each))
    if seconds is not None:
        of_a_step = probed.whole.step_seconds or probed.calibrated.get("step_seconds")
        if not of_a_step:
            raise UnsupportedError.of(
                "a budget of time", "the probe measured no step", ["--train-tokens"]
            )
        return max(1, int(seconds / of_a_step))
    return None
