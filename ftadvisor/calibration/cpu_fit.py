"""Fits what of a processor's measured rates a training step gets, and how far estimates lie off.

The rows are `data/measurements/cpu/`: whole models trained on processors whose products and copies
were measured. Three shares are fitted, the same that a machine's own measurements move.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.optimize import least_squares  # pyright: ignore

from ftadvisor.calibration.cases import Case, case_of
from ftadvisor.calibration.own_fit import log_seconds
from ftadvisor.calibration.quantiles import percentile, residual_interval
from ftadvisor.estimation.calibrated import cpu_of, cpu_time, unseen
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.phases import NO_CUDA
from ftadvisor.schema.coefficients import CpuCoefficients, Interval, TimeCoefficients
from ftadvisor.schema.hardware import Gpu
from ftadvisor.sources.data_files import data_dir
from ftadvisor.sources.measurements import measurements_of
from ftadvisor.units import GIB

AS_MEASURED = CpuCoefficients(rate_share=1.0, bandwidth_share=1.0, host_slowness=1.0, spread=0.0)
"""A step gets what products and copies get."""
SPREAD = 0.2
"""Beyond it a row's error weighs softly (soft L1): what the fit leaves."""


class CpuFit(NamedTuple):
    """Fitted numbers and how well they do."""

    coefficients: CpuCoefficients
    intervals: dict[str, Interval]
    left_out: dict[str, dict[str, Any]]


@cache
def cpu_cases() -> tuple[tuple[Case, Gpu], ...]:
    """The rows, each with its processor."""
    folder = data_dir() / "measurements" / "cpu"
    machines = {row["id"]: cpu_of(row) for row in _rows(folder / "machines.jsonl")}
    found: list[tuple[Case, Gpu]] = []
    with tempfile.TemporaryDirectory() as place:
        for row in _rows(folder / "steps.jsonl"):
            case = case_of(measurements_of(_with_model(row, Path(place)))[0])
            s = case.situation
            phases = step_phases(case.model, s.settings, s.trainer, case.adapter, NO_CUDA)
            found.append((replace(case, phases=phases), machines[row["machine"]]))
    return tuple(found)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _with_model(row: dict[str, Any], place: Path) -> dict[str, Any]:
    """A model that no catalogue has stands in its row; the estimate reads it from a directory."""
    if "config" not in row:
        return row
    model = place / row["id"]
    model.mkdir()
    (model / "config.json").write_text(json.dumps(row["config"]), encoding="utf-8")
    return {**row, "model": str(model)}


def errors(
    rows: Sequence[tuple[Case, Gpu]], c: TimeCoefficients, shares: CpuCoefficients
) -> np.ndarray:
    """Logarithms of predicted over measured seconds."""
    nothing = np.zeros(3)
    return np.array(
        [
            log_seconds(case, cpu, cpu_time(c, cpu, shares), nothing)
            - math.log(case.measurement.micro_step_seconds or 1.0)
            for case, cpu in rows
        ]
    )


def fit_shares(rows: Sequence[tuple[Case, Gpu]], c: TimeCoefficients) -> CpuCoefficients:
    """Shares with the least soft error; nothing multiplies faster than the best product."""

    def shares(logarithms: np.ndarray) -> CpuCoefficients:
        rate, bandwidth, host = (float(v) for v in np.exp(logarithms))
        return CpuCoefficients(
            rate_share=rate, bandwidth_share=bandwidth, host_slowness=host, spread=0.0
        )

    def far(logarithms: np.ndarray) -> np.ndarray:
        return errors(rows, c, shares(logarithms)) / SPREAD

    solve = cast("Callable[..., Any]", least_squares)
    found = solve(
        far,
        np.log([0.8, 0.8, 1.0]),
        loss="soft_l1",
        bounds=(-np.inf, [0.0, np.inf, np.inf]),
    )
    return shares(found.x)


def fit_cpu(c: TimeCoefficients) -> CpuFit:
    """Shares of time, an interval of memory; of each kind of model, left out, the error of time."""
    rows = cpu_cases()
    ratios = [(case.measurement.memory_gib or 0.0) * GIB / case.allocated_bytes for case, _ in rows]
    memory = residual_interval(ratios)
    left: dict[str, list[float]] = {}
    for kind in sorted({case.model.model_type for case, _ in rows}):
        own = [row for row in rows if row[0].model.model_type == kind]
        without = fit_shares([row for row in rows if row not in own], c)
        left[kind] = [float(e) for e in np.exp(-errors(own, c, without))]
    left["pooled"] = [ratio for found in left.values() for ratio in found]
    # What another processor's shares may be is not known, nor another kind of model's: they are
    # taken to lie as far from these as what was measured lies from either guess.
    guesses = errors(rows, c, AS_MEASURED), np.log(left["pooled"])
    spread = max(float(np.sqrt(np.mean(logs**2))) for logs in guesses)
    time = unseen(spread)
    return CpuFit(
        replace(fit_shares(rows, c), spread=spread),
        {"memory": memory},
        {
            "memory, nothing fitted": _errors(ratios, memory),
            **{kind: _errors(found, time) for kind, found in left.items()},
        },
    )


def _errors(ratios: Sequence[float], held: Interval) -> dict[str, Any]:
    """Of measured over predicted."""
    found = [abs(1 / ratio - 1) for ratio in ratios]
    return {
        "rows": len(found),
        "median_abs_error": percentile(found, 0.5),
        "p90_abs_error": percentile(found, 0.9),
        "coverage90": sum(held.low <= ratio <= held.high for ratio in ratios) / len(ratios),
    }
