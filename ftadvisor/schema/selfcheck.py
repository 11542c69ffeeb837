"""The closed form beside the simulation: two roads to one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MEDIAN_BOUND = 0.005
P95_BOUND = 0.03
"""What the repository promises of the closed form's allocated memory, over the simulated one."""


class Checked(NamedTuple):
    """One setting, computed both ways."""

    architecture: str
    model: str
    setting: str
    analytic_bytes: int
    """Allocated memory by the closed form [bytes]."""
    simulated_bytes: int | None
    """None: it cannot be simulated."""
    analytic_phase: str
    simulated_phase: str
    reason: str = ""
    """Why it cannot be simulated, or not be estimated."""

    @property
    def error(self) -> float | None:
        """Closed form over simulation, minus 1."""
        return self.analytic_bytes / self.simulated_bytes - 1 if self.simulated_bytes else None


class Spread(NamedTuple):
    """Absolute errors of a group of settings."""

    rows: int
    median: float
    p95: float
    worst: float


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """All settings that were compared."""

    rows: tuple[Checked, ...]

    @property
    def compared(self) -> tuple[Checked, ...]:
        """Those with a figure from both."""
        return tuple(row for row in self.rows if row.error is not None)

    def spread(self, rows: Sequence[Checked] | None = None) -> Spread:
        """Errors of some rows, or of all."""
        chosen = self.compared if rows is None else [r for r in rows if r.error is not None]
        errors = sorted(abs(row.error or 0.0) for row in chosen)
        if not errors:
            return Spread(0, 0.0, 0.0, 0.0)
        return Spread(len(errors), _quantile(errors, 0.5), _quantile(errors, 0.95), errors[-1])

    @property
    def holds(self) -> bool:
        """Whether both bounds hold, and anything was compared."""
        found = self.spread()
        return found.rows > 0 and found.median <= MEDIAN_BOUND and found.p95 <= P95_BOUND

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        rows = [{**row._asdict(), "error": row.error} for row in self.rows]
        found = self.spread()._asdict()
        bounds = {"median": MEDIAN_BOUND, "p95": P95_BOUND}
        return {"all": found, "bounds": bounds, "holds": self.holds, "rows": rows}


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest, along a straight line."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
