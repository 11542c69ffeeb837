"""A seeded sample of rows, and how far a share in it may be from the truth."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from ftadvisor.schema.dataset import Share

SAMPLED_ROWS = 2000
LONGEST_SAMPLED = 10_000
"""Characters that are kept of a row; what is counted in them is scaled to the whole."""

Z_90 = 1.6449
"""Half-width of a 90 % interval, in standard deviations of a normal distribution."""


class Sampled(NamedTuple):
    """A row of the sample."""

    text: str
    """Its start."""
    size: float
    """Characters of one sequence of the whole text."""
    apart: int = 0
    """Rows that differ in this are not alike, whatever their text: a hash of their images."""


class Reservoir:
    """A uniform sample of a stream whose length is not known.

    Ref: Li 1994, Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n))), algorithm L:
    only rows that are taken cost anything.
    """

    def __init__(self, seed: int, rows: int = SAMPLED_ROWS) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self._rows = rows
        self._weight = 1.0
        self._taken: list[Sampled] = []
        self.next = 0
        """Index of the next row to offer."""

    def offer(self, index: int, text: str, size: float, apart: int = 0) -> None:
        """Take the row of index `next`."""
        taken = Sampled(text[:LONGEST_SAMPLED], size, apart)
        if index < self._rows:
            self._taken.append(taken)
            self.next = index + 1
            if self.next < self._rows:
                return
        else:
            self._taken[self._random.randrange(self._rows)] = taken
        self._weight *= math.exp(math.log(1 - self._random.random()) / self._rows)
        skipped = math.log(1 - self._random.random()) / math.log1p(-self._weight)
        self.next = index + 1 + int(skipped)

    def rows(self) -> list[Sampled]:
        """The sample, in random order: any part of it is a sample too."""
        shuffled = list(self._taken)
        random.Random(self._seed).shuffle(shuffled)
        return shuffled


def share_of(found: int, sampled: int) -> Share:
    """A share with its 90 % interval (Wilson's, which holds at 0 and 1 too)."""
    share, spread = found / sampled, Z_90**2 / sampled
    centre = (share + spread / 2) / (1 + spread)
    half = Z_90 / (1 + spread) * math.sqrt(share * (1 - share) / sampled + spread / 4 / sampled)
    return Share(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))
