"""Intervals from residuals: order statistics that hold for measurements not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftadvisor.schema.coefficients import Interval

MISSED = 0.1
"""A 90 % interval misses one measurement in ten, half of them on each side."""


def residual_interval(ratios: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Multipliers between which 90 % of `ratios` (measured over predicted) lie.

    Each end is the order statistic that a further measurement passes with probability 5 %: of n
    ratios the (n + 1) x 0.95-th, the outermost where that is beyond the last (Vovk 2005, split
    conformal prediction). With weights, ranks are shares of the whole weight.
    """
    count = len(ratios)
    each = list(weights) if weights is not None else [1.0] * count
    pairs = sorted(zip(ratios, each, strict=True))
    total = math.fsum(each) * (count + 1) / count
    return Interval(
        _at(list(reversed(pairs)), total, 1 - MISSED / 2),
        _at(pairs, total, 1 - MISSED / 2),
        count,
    )


def _at(pairs: list[tuple[float, float]], total: float, share: float) -> float:
    passed = 0.0
    for ratio, weight in pairs:
        passed += weight
        if passed >= share * total:
            return ratio
    return pairs[-1][0]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, linearly interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
