"""How far a metric may be from its value on all rows of that kind: the bootstrap."""

from __future__ import annotations

import numpy as np

from ftadvisor.execution.evaluation.metrics import Tally

RESAMPLES = 1000
SHARE = 90.0
"""Percent that the interval holds, as an estimate's do."""


def interval(tally: Tally, seed: int) -> tuple[float, float] | None:
    """The percentile interval over pieces drawn with replacement; None: one piece tells nothing."""
    count = len(tally.pieces)
    if count < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    figures = [tally.figure(sums) for sums in drawn @ tally.pieces]
    low, high = np.nanpercentile(figures, [50 - SHARE / 2, 50 + SHARE / 2])
    return float(low), float(high)
