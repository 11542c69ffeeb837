"""Fits the ladder from allocated to reserved to device memory, and the memory intervals.

What is allocated has no fitted number. The ladder has a few, linear in the bytes of the peak phase;
they minimise the absolute relative error over published reserved and device figures, each source
of eight rows or more with the same weight, and stay at their priors where fewer than eight rows
tell them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftadvisor.calibration.cases import Case, read_cases
from ftadvisor.calibration.quantiles import percentile, residual_interval
from ftadvisor.estimation.ladder import capped, ladder, logits_growth, reserved_bytes, variation
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.uncertainty import OTHER, Kind, interval, kinds_of, memory_kind
from ftadvisor.schema.coefficients import Interval, MemoryCoefficients
from ftadvisor.units import GIB

METRICS = ("allocated", "reserved", "device")

FEWEST_ROWS = 8
"""A coefficient of its own needs at least this many rows."""
FEWEST_IN_KIND = 20
"""An interval of its own needs enough rows that its ends are not its extremes: (n + 1) x 5 % >= 1
from 19 rows on."""
ITERATIONS = 60
NEARLY_FULL = 0.9
PRIOR_STRENGTH = 0.01
"""Weight of a prior against sources that count one each."""


class Target(NamedTuple):
    """One figure that the ladder must explain."""

    case: Case
    metric: str
    measured_bytes: float


class MemoryFit(NamedTuple):
    """Fitted numbers and how well they do."""

    coefficients: MemoryCoefficients
    intervals: dict[str, Interval]
    left_out: dict[str, dict[str, Any]]
    """By source: errors of its rows when everything is fitted without it."""


PRIORS: dict[str, tuple[float, float]] = {
    "working_fraction": (0.08, 0.04),
    "logits_fraction": (0.27, 0.15),
    "emptied_logits_fraction": (0.27, 0.15),
    "variable_length_constant": (2.4, 6.0),
    "variable_length_slope": (1.3, 6.0),
    "context_bytes": (0.5 * GIB, 0.25 * GIB),
    "communication_bytes": (1.0 * GIB, 0.5 * GIB),
}
"""Value and spread before any row is seen. working_fraction: blocks are rounded to 512 bytes and
2 MiB and a rest below 1 MiB is not split off (c10/cuda/CUDACachingAllocator.h, kSmallSize,
kMinLargeAlloc), which costs a few percent of tensors of megabytes. logits_fraction: one of the
about four fp32 copies of the logits stays cached and free in a replay of the loss. Variable
lengths: the allocator's records over lognormal lengths, as in `ladder.reserved_bytes`. The context:
what nvidia-smi shows after the first kernel, 0.3 to 0.6 GiB. NCCL: its channels' buffers and a
second context's share."""


def targets_of(cases: Iterable[Case]) -> list[Target]:
    """Reserved and device figures of scored rows; also nvidia-smi's beside another metric."""
    found: list[Target] = []
    for case in cases:
        m = case.measurement
        if not case.scored or m.lower_bound or case.situation.memory_unsupported:
            continue
        if m.memory_gib is not None and m.memory_metric in ("reserved", "device"):
            found.append(Target(case, m.memory_metric, m.memory_gib * GIB))
        beside = m.row.get("memory_gib_device")
        if beside and m.memory_metric != "device":
            found.append(Target(case, "device", beside * GIB))
    return [target for target in found if not _saturated(target) and _lengths_known(target)]


def _lengths_known(target: Target) -> bool:
    """Whether a row with batches of many lengths says how long they are."""
    row = target.case.measurement.row
    stated = row.get("mean_tokens_per_sample") or row.get("length_statistics")
    return bool(stated) or row.get("sequence_fill") == "full"


def _saturated(target: Target) -> bool:
    """Whether the card was nearly full: the allocator then gives its cache back and starts over,
    and the figure says nothing of what it would have kept."""
    gpu = target.case.gpu
    return gpu is not None and target.measured_bytes > NEARLY_FULL * gpu.usable_bytes


def fit_ladder(targets: Sequence[Target]) -> MemoryCoefficients:
    """Coefficients with the least absolute relative error over `targets`."""
    names = list(PRIORS)
    values = np.array([PRIORS[name][0] for name in names])
    told = np.zeros(len(names))
    for target in targets:
        told += np.array(_features(target, _coefficients(values))) != 0
    free = told >= FEWEST_ROWS
    per_source = Counter(t.case.measurement.source for t in targets)
    for _ in range(ITERATIONS if free.any() else 0):
        rows = [_features(t, _coefficients(values)) for t in targets]
        known = np.array([_known(t, _coefficients(values)) for t in targets])
        measured = np.array([t.measured_bytes for t in targets])
        left = (measured - known - np.array(rows) @ np.where(free, 0, values)) / measured
        design = np.array(rows)[:, free] / measured[:, None]
        miss = np.abs(left - design @ values[free])
        rows_of = [per_source[t.case.measurement.source] for t in targets]
        weights = 1 / np.maximum(rows_of, FEWEST_ROWS)
        weights = weights / np.maximum(miss, 0.01)
        values[free] = _solve(design, left, weights, names, free)
    return _coefficients(np.maximum(values, 0))


def _solve(
    design: np.ndarray, left: np.ndarray, weights: np.ndarray, names: list[str], free: np.ndarray
) -> np.ndarray:
    """Weighted least squares, the priors as one further observation each."""
    prior = np.array([PRIORS[name][0] for name in names])[free]
    spread = np.array([PRIORS[name][1] for name in names])[free]
    # In units of the spreads: bytes beside fractions would lose all digits.
    scaled = design * spread
    normal = scaled.T @ (scaled * weights[:, None]) + PRIOR_STRENGTH * np.eye(len(spread))
    moved = scaled.T @ (weights * left) + PRIOR_STRENGTH * prior / spread
    return np.linalg.solve(normal, moved) * spread


def _coefficients(values: np.ndarray) -> MemoryCoefficients:
    found = {name: float(value) for name, value in zip(PRIORS, values, strict=True)}
    return MemoryCoefficients(**found)


def _peak(target: Target, c: MemoryCoefficients) -> Phase:
    case = target.case
    s, trainer = case.situation.settings, case.situation.trainer
    growth = logits_growth(s, trainer, c)
    return max(case.phases.values(), key=lambda p: reserved_bytes(p, trainer, c, growth))


def _known(target: Target, c: MemoryCoefficients) -> float:
    """What no coefficient multiplies [bytes]; with varying lengths they multiply all logits."""
    peak, s = _peak(target, c), target.case.situation
    return peak.total - variation(s.settings, s.trainer)[0] * peak.logits


def _features(target: Target, c: MemoryCoefficients) -> list[float]:
    """What each coefficient multiplies in this figure, in the order of PRIORS."""
    peak = _peak(target, c)
    s, trainer = target.case.situation.settings, target.case.situation.trainer
    varying, ratio = variation(s, trainer)
    device = target.metric == "device"
    logits = peak.logits
    return [
        0.0 if trainer.empties_cache else peak.activations + peak.temporaries,
        0.0 if trainer.empties_cache else (1 - varying) * logits,
        logits if trainer.empties_cache else 0.0,
        varying * logits,
        varying * logits * ratio,
        1.0 if device else 0.0,
        1.0 if device and s.num_gpus > 1 else 0.0,
    ]


def predicted_bytes(case: Case, metric: str, c: MemoryCoefficients) -> float:
    """One figure of a case [bytes]."""
    if metric == "allocated":
        return case.allocated_bytes
    s, trainer = case.situation.settings, case.situation.trainer
    found = ladder(case.phases, s, trainer, c)
    reserved = found.reserved
    if case.gpu:
        reserved = capped(reserved, case.allocated_bytes, case.gpu.usable_bytes)
    return float(reserved if metric == "reserved" else reserved + found.device - found.reserved)


class Residual(NamedTuple):
    """Measured over predicted, and what kind of run it was."""

    source: str
    metric: str
    kind: Kind
    ratio: float


def residuals(cases: Iterable[Case], c: MemoryCoefficients) -> list[Residual]:
    """Of all scored figures, those beside another metric included."""
    found: list[Residual] = []
    for case in cases:
        m, s = case.measurement, case.situation
        if not case.scored or m.lower_bound or m.memory_gib is None or s.memory_unsupported:
            continue
        metric = m.memory_metric or ""
        kind = memory_kind(s.settings, s.trainer)
        ratio = m.memory_gib * GIB / predicted_bytes(case, metric, c)
        found.append(Residual(m.source, metric, kind, ratio))
        beside = m.row.get("memory_gib_device")
        if beside and metric != "device":
            ratio = beside * GIB / predicted_bytes(case, "device", c)
            found.append(Residual(m.source, "device", kind, ratio))
    return found


def fit_memory(cases: Sequence[Case]) -> MemoryFit:
    """Coefficients, intervals and leave-one-source-out errors of these cases."""
    targets = targets_of(cases)
    coefficients = fit_ladder(targets)
    left: list[Residual] = []
    for source in sorted({case.measurement.source for case in cases}):
        without = fit_ladder([t for t in targets if t.case.measurement.source != source])
        left += residuals((c for c in cases if c.measurement.source == source), without)
    found = residuals(cases, coefficients)
    table = intervals_of(found, left)
    strangers, _ = read_cases((case.measurement for case in cases), stand_in=True)
    table |= stand_in_intervals(residuals(strangers, coefficients))
    return MemoryFit(coefficients, table, left_out_errors(left, found))


def stand_in_intervals(found: Sequence[Residual]) -> dict[str, Interval]:
    """Intervals of programs whose loop nobody has read: every measured program, predicted as if it
    were one of them, each source with the same weight."""
    table: dict[str, Interval] = {}
    for metric in METRICS:
        table[f"{metric} stand-in"] = _by_source([r for r in found if r.metric == metric])
    table["needed stand-in"] = table["allocated stand-in"]
    return table


def _by_source(found: Sequence[Residual]) -> Interval:
    """One interval, each source of enough rows with the same weight."""
    rows = Counter(r.source for r in found)
    members = [r for r in found if rows[r.source] >= FEWEST_ROWS] or found
    return residual_interval([r.ratio for r in members], [1 / rows[r.source] for r in members])


def intervals_of(
    found: Sequence[Residual], left: Sequence[Residual], metrics: tuple[str, ...] = METRICS
) -> dict[str, Interval]:
    """One interval for each kind with enough rows, and for each of the kinds it belongs to.

    Kinds of measured trainers take the residuals of the fit. A trainer that was never measured is
    in the position of a source left out, so its intervals come from the residuals of sources that
    were: each source with the same weight, for the next program is a draw among programs, not among
    rows. So is a measured trainer where none of its own rows tell what is allocated: what it gets
    from the others is not narrower.
    """
    table: dict[str, Interval] = {}
    groups: dict[str, list[float]] = defaultdict(list)
    for residual in found:
        for name in kinds_of(residual.metric, residual.kind):
            groups[name].append(residual.ratio)
    for name, ratios in groups.items():
        if len(ratios) >= FEWEST_IN_KIND or name in metrics:
            table[name] = residual_interval(ratios)
    for metric in metrics:
        # How well loops are read shows in what is allocated, what the allocator adds in the rest.
        alike = [r for r in left if (r.metric == "allocated") == (metric == "allocated")] or left
        table[f"{metric} other-trainer"] = _by_source(alike)
    for name, found_interval in list(table.items()):
        if name.startswith("allocated measured-trainer"):
            found_interval = _wider(found_interval, table["allocated other-trainer"])
            table[name] = found_interval
        if name.startswith("allocated"):
            table["needed" + name.removeprefix("allocated")] = found_interval
    return table


def _wider(one: Interval, other: Interval) -> Interval:
    return one._replace(low=min(one.low, other.low), high=max(one.high, other.high))


def left_out_errors(
    left: Sequence[Residual], found: Sequence[Residual], metrics: tuple[str, ...] = METRICS
) -> dict[str, dict[str, Any]]:
    """Errors of each source predicted without it, and whether intervals without it hold them."""
    covered: dict[int, bool] = {}
    for source in {r.source for r in left}:
        table = intervals_of(
            [r for r in found if r.source != source],
            [r for r in left if r.source != source],
            metrics,
        )
        for place, residual in enumerate(left):
            if residual.source == source:
                bounds = interval(table, residual.metric, (OTHER, residual.kind[1]))
                covered[place] = bounds.low <= residual.ratio <= bounds.high
    groups: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for place, residual in enumerate(left):
        for name in (residual.source, "pooled"):
            groups[name].append((abs(1 / residual.ratio - 1), covered[place]))
    return {
        name: {
            "rows": len(members),
            "median_abs_error": percentile([error for error, _ in members], 0.5),
            "p90_abs_error": percentile([error for error, _ in members], 0.9),
            "coverage90": sum(held for _, held in members) / len(members),
        }
        for name, members in sorted(groups.items())
    }
