"""The answer of `compare`: techniques, GPUs or models side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from ftadvisor.schema.display import Displayed
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.read_only import writable
from ftadvisor.schema.remedy import Remedy

Axis = Literal["technique", "gpu", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPoints:
    """Expected accuracy points over LoRA, from the comparisons that were published."""

    points: float
    low: float
    high: float
    """Ends of the 90 % interval."""
    rules: tuple[str, ...]
    """The comparisons that it rests on: `ftadvisor explain ID` shows each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One row of a comparison."""

    name: str
    """The technique, the GPU or the model."""
    estimate: Estimate
    quality: QualityPoints | None
    """None: nobody compared it in such a situation, or the rows are no techniques."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Displayed):
    """Rows that differ in one thing, and which is best in what."""

    axis: Axis
    rows: tuple[Compared, ...]
    best: Mapping[str, tuple[str, ...]]
    """Of memory, tokens_per_second, time, cost and quality: the names of the best rows among those
    that fit or are tight. Read-only."""
    assumptions: tuple[str, ...] = ()
    """About the quality; those about a figure stand in its estimate."""
    remedies: tuple[Remedy, ...] = ()
    """Where no row fits: single changes of the row that needs least."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, as `ftadvisor compare --json` prints them."""
        return cast("dict[str, Any]", writable(asdict(self)))
