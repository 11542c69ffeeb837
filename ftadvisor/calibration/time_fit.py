"""Fits the time model's shares of datasheet rates on published micro-steps.

Every coefficient is a positive number, so its logarithm is fitted, with a prior as one further
observation each. GPUs and trainers of at least eight rows get a coefficient of their own, drawn
towards that of their architecture, or the default. Errors are relative and weigh softly (soft L1),
so that a mistaken row does not decide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.optimize import least_squares  # pyright: ignore

from ftadvisor.calibration.cases import SCORED_GRADES, Case
from ftadvisor.calibration.memory_fit import (
    FEWEST_ROWS,
    Residual,
    intervals_of,
    left_out_errors,
)
from ftadvisor.estimation.terms import attention_kernel
from ftadvisor.estimation.time import GPUS_PER_MACHINE, step_time, time_kind
from ftadvisor.schema.coefficients import Interval, TimeCoefficients
from ftadvisor.schema.hardware import Gpu

SPREAD = 0.1
"""Relative error of a typical row: reruns of one experiment differ by a factor of 1.23."""

SCALARS: dict[str, tuple[float, float]] = {
    "half_tokens_per_teraflops": (1.5, 0.7),
    "half_width": (256.0, 1.0),
    "bandwidth_share": (0.7, 0.2),
    "elementwise_passes": (1.0, 0.3),
    "score_passes": (14.0, 0.4),
    "adapter_passes": (1.0, 0.3),
    "matrix_passes": (0.9, 0.3),
    "kernel_seconds": (4e-6, 0.3),
    "exposed": (0.15, 0.7),
    "gather_seconds": (3e-4, 1.0),
    "step_seconds": (0.01, 1.0),
}
"""Prior and its spread in logarithms. A tile's loop fills a pipeline of four stages of 64 features
before it is at work. What elementwise operations name they move, as an adapter's. Collectives hide
behind computation but for first and last; a gather is some 20 operations of the host.
Eager scores: written by the product, scaled, masked, softmax to fp32 and back, dropout, read by the
second product: 14 passes in half precision. A kernel that does next to nothing takes some 4 µs on
the GPU; the host takes some 15 µs for an operation of a module under autograd."""
TABLES: dict[str, tuple[float, float, float]] = {
    "efficiency": (0.6, 0.3, 0.2),
    "attention_share": (0.5, 0.5, 0.5),
    "dequantized_per_cycle": (1.0, 0.7, 0.5),
    "launch_seconds": (1.5e-5, 0.4, 0.5),
    "link_share": (0.6, 0.5, 0.4),
}
"""Default, its spread, and the spread of an entry of its own around its parent."""
OVERLAP_POWER = 4.0
"""Of the smooth maximum of what the GPU computes and what the host launches: the two differ by at
most 19 % (the fourth root of 2) from the larger one, where they are equal."""


class TimeFit(NamedTuple):
    """Fitted numbers and how well they do."""

    coefficients: TimeCoefficients
    intervals: dict[str, Interval]
    left_out: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Parameters:
    """Names and priors of the vector that is fitted."""

    names: tuple[tuple[str, str], ...]
    """(field, key); key "" for scalars."""
    prior: np.ndarray
    spread: np.ndarray
    parent: tuple[int, ...]
    """Place of the entry that an entry is drawn to; -1: its prior."""

    def coefficients(self, logarithms: np.ndarray) -> TimeCoefficients:
        """The record of a vector."""
        fields: dict[str, Any] = {"overlap_power": OVERLAP_POWER, **{name: {} for name in TABLES}}
        for (field, key), value in zip(self.names, np.exp(logarithms), strict=True):
            if key:
                fields[field][key] = float(value)
            else:
                fields[field] = float(value)
        return TimeCoefficients(**fields)

    def pull(self, logarithms: np.ndarray) -> np.ndarray:
        """Distance of each entry from its prior or parent, in spreads."""
        towards = [
            self.prior[i] if parent < 0 else logarithms[parent]
            for i, parent in enumerate(self.parent)
        ]
        return (logarithms - np.array(towards)) / self.spread


def timed(cases: Sequence[Case]) -> list[Case]:
    """Cases with the seconds of a micro-step, a known GPU and a scored grade."""
    return [
        c
        for c in cases
        if c.measurement.micro_step_seconds
        and c.gpu is not None
        and c.measurement.grade in SCORED_GRADES
    ]


def fit_coefficients(cases: Sequence[Case]) -> TimeCoefficients:
    """Coefficients with the least soft error over these cases."""
    parameters = _parameters(cases)
    measured = np.log([c.measurement.micro_step_seconds or 1.0 for c in cases])
    weights = _weights(cases)

    def errors(logarithms: np.ndarray) -> np.ndarray:
        c = parameters.coefficients(logarithms)
        found = np.log([micro_step_seconds(case, c) for case in cases])
        return np.concatenate([weights * (found - measured) / SPREAD, parameters.pull(logarithms)])

    start = parameters.prior.copy()
    # Nothing multiplies or moves faster than its datasheet says.
    shares = ("efficiency", "link_share", "bandwidth_share")
    top = np.array([0.0 if field in shares else np.inf for field, _ in parameters.names])
    solve = cast("Callable[..., Any]", least_squares)
    found = solve(errors, start, loss="soft_l1", max_nfev=40, bounds=(-np.inf, top))
    return parameters.coefficients(found.x)


def _weights(cases: Sequence[Case]) -> np.ndarray:
    """What a row counts: less in a large source, or on a GPU without a coefficient of its own.

    The rows of such a GPU share its unknown distance from its architecture, so that all of them
    together say no more of the architecture than one draw of that distance does.
    """
    sources = Counter(c.measurement.source for c in cases)
    gpus = Counter(c.gpu.id for c in cases if c.gpu)
    between = TABLES["efficiency"][2] / SPREAD
    weights: list[float] = []
    for c in cases:
        assert c.gpu is not None
        n = gpus[c.gpu.id]
        shared = 1.0 if n >= FEWEST_ROWS else (1 + n * between**2) ** -0.5
        weights.append(shared * sources[c.measurement.source] ** -0.25)
    found = np.array(weights)
    return found / found.mean()


def micro_step_seconds(case: Case, c: TimeCoefficients) -> float:
    """Predicted seconds of a case's micro-step."""
    assert case.gpu is not None
    s = case.situation
    return float(
        step_time(
            case.model,
            s.settings,
            s.trainer,
            case.adapter,
            case.gpu,
            c,
            _NO_INTERVALS,
            s.host_slowness,
        ).micro_step_seconds
    )


_NO_INTERVALS = {"time": Interval(1.0, 1.0, 0)}


def _parameters(cases: Sequence[Case]) -> _Parameters:
    names: list[tuple[str, str]] = []
    prior: list[float] = []
    spread: list[float] = []
    parent: list[int] = []

    def add(field: str, key: str, value: float, width: float, towards: int = -1) -> int:
        names.append((field, key))
        prior.append(math.log(value))
        spread.append(width)
        parent.append(towards)
        return len(names) - 1

    for field, (value, width) in SCALARS.items():
        add(field, "", value, width)
    for field, (value, width, own) in TABLES.items():
        default = add(field, "default", value, width)
        keys = _keys(field, cases)
        for key, above in keys:
            towards = names.index((field, above)) if above else default
            add(field, key, value, own, towards)
    return _Parameters(tuple(names), np.array(prior), np.array(spread), tuple(parent))


def _keys(field: str, cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Entries of a table with enough rows, each after the entry that it is drawn to."""
    gpus: list[Gpu] = [c.gpu for c in cases if c.gpu is not None]
    found: Counter[str]
    match field:
        case "efficiency":
            arch = Counter(g.arch for g in gpus)
            kept = [(a, "") for a, n in sorted(arch.items()) if n >= FEWEST_ROWS]
            above = dict(kept)
            own = Counter((g.id, g.arch) for g in gpus)
            return kept + [
                (id_, a if a in above else "")
                for (id_, a), n in sorted(own.items())
                if n >= FEWEST_ROWS
            ]
        case "attention_share":
            found = Counter(
                attention_kernel(c.model, c.situation.settings, c.situation.trainer) for c in cases
            )
        case "dequantized_per_cycle":
            found = Counter(
                c.situation.settings.quantization.partition("-")[0]
                for c in cases
                if c.situation.settings.quantization != "none"
            )
        case "link_share":
            several = [c for c in cases if c.gpu and c.situation.settings.strategy != "none"]
            found = Counter(
                c.gpu.link
                for c in several
                if c.gpu and c.situation.settings.num_gpus <= GPUS_PER_MACHINE
            )
            inside = [(key, "") for key, n in sorted(found.items()) if n >= FEWEST_ROWS]
            # A network gives a machine of eight at most what its inner links give.
            return [*inside, ("between-machines", "nvlink" if ("nvlink", "") in inside else "")]
        case _:
            found = Counter(c.situation.trainer.id for c in cases)
    return [(key, "") for key, n in sorted(found.items()) if n >= FEWEST_ROWS]


def residuals(cases: Sequence[Case], c: TimeCoefficients) -> list[Residual]:
    """Measured over predicted of each case, and its kind."""
    found: list[Residual] = []
    for case in cases:
        assert case.gpu is not None
        m, s = case.measurement, case.situation
        kind = time_kind(s.settings, s.trainer, case.gpu, c)
        ratio = (m.micro_step_seconds or 1.0) / micro_step_seconds(case, c)
        found.append(Residual(m.source, "time", kind, ratio))
    return found


def fit_time(cases: Sequence[Case]) -> TimeFit:
    """Coefficients, intervals and leave-one-source-out errors of these cases."""
    chosen = timed(cases)
    coefficients = fit_coefficients(chosen)
    left: list[Residual] = []
    for source in sorted({c.measurement.source for c in chosen}):
        without = fit_coefficients([c for c in chosen if c.measurement.source != source])
        left += residuals([c for c in chosen if c.measurement.source == source], without)
    found = residuals(chosen, coefficients)
    return TimeFit(
        coefficients, intervals_of(found, left, ("time",)), left_out_errors(left, found, ("time",))
    )
