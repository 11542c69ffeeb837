"""What a sample of lengths says of batches: cut, padded, packed."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

PERCENTILES = (50, 75, 90, 95, 99)
MAX_LENGTHS = tuple(2**power for power in range(7, 16))
"""128 to 32,768 tokens."""
MICRO_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def percentiles(lengths: list[float], longest: float) -> dict[int, float]:
    """Nearest ranks of sorted lengths; the hundredth is given, as it is of all rows."""
    count = len(lengths)
    found = {p: lengths[max(0, math.ceil(p / 100 * count) - 1)] for p in PERCENTILES}
    return {p: min(length, longest) for p, length in found.items()} | {100: longest}


def truncated(lengths: list[float]) -> dict[int, float]:
    """By max_length: the share of examples that are cut."""
    count = len(lengths)
    return {cap: (count - bisect_right(lengths, cap)) / count for cap in MAX_LENGTHS}


def padding_waste(lengths: list[float]) -> dict[int, float]:
    """By micro_batch_size: the share of a batch, padded to its longest, that is padding.

    The i-th of n sorted lengths is the longest of b drawn with probability (i/n)^b - ((i-1)/n)^b.
    """
    count = len(lengths)
    mean = sum(lengths) / count
    if mean == 0:
        return dict.fromkeys(MICRO_BATCH_SIZES, 0.0)
    found: dict[int, float] = {}
    for batch in MICRO_BATCH_SIZES:
        below = [(i / count) ** batch for i in range(count + 1)]
        padded = sum(x * (below[i + 1] - below[i]) for i, x in enumerate(lengths))
        found[batch] = max(0.0, 1 - mean / padded)
    return found


def packing_gain(lengths: list[float]) -> dict[int, float]:
    """By max_length: examples that a packed sequence of this length holds, those longer cut to it.

    Of sequences that are filled to the end, as TRL's `wrapped` packing does.
    """
    count = len(lengths)
    sums = [0.0, *accumulate(lengths)]
    found: dict[int, float] = {}
    for cap in MAX_LENGTHS:
        whole = bisect_right(lengths, cap)
        kept = sums[whole] + cap * (count - whole)
        found[cap] = cap * count / kept if kept else 1.0
    return found
