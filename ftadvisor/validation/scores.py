"""Errors of a set of predictions, and how often their intervals hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ftadvisor.calibration.quantiles import percentile

MISS_PENALTY = 2 / 0.1
"""Weight of a miss in the interval score of a 90 % interval: 2 / (1 - 0.9) (Gneiting and Raftery
2007, section 6.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One figure of one row: predicted, measured and interval, in one unit."""

    id: str
    source: str
    technique: str
    gpu: str
    predicted: float
    low: float
    high: float
    measured: float
    lower_bound: bool = False
    """The measurement says only "at least"."""

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1; a prediction above a lower bound has no error."""
        error = self.predicted / self.measured - 1
        return min(error, 0.0) if self.lower_bound else error

    @property
    def covered(self) -> bool:
        """Whether the interval holds the measurement."""
        if self.lower_bound:
            return self.high >= self.measured
        return self.low <= self.measured <= self.high

    @property
    def half_width(self) -> float:
        """Half the interval's width over the prediction."""
        return (self.high - self.low) / (2 * self.predicted)

    @property
    def interval_score(self) -> float:
        """Width plus penalty for missing, over the measurement; smaller is better."""
        miss = max(self.low - self.measured, self.measured - self.high, 0.0)
        return (self.high - self.low + MISS_PENALTY * miss) / self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a group of rows says of the predictions; errors are fractions."""

    rows: int
    scored: int
    median_abs_error: float | None
    p90_abs_error: float | None
    mean_abs_error: float | None
    bias: float | None
    """Mean signed error."""
    coverage90: float | None
    median_half_width: float | None
    interval_score: float | None

    @property
    def unsupported(self) -> int:
        """Rows that could not be predicted."""
        return self.rows - self.scored

    def as_dict(self) -> dict[str, float | int | None]:
        """The JSON that `ftadvisor validate --json` prints."""
        return {
            "rows": self.rows,
            "scored": self.scored,
            "unsupported": self.unsupported,
            "median_abs_error": self.median_abs_error,
            "p90_abs_error": self.p90_abs_error,
            "mean_abs_error": self.mean_abs_error,
            "bias": self.bias,
            "coverage90": self.coverage90,
            "median_half_width": self.median_half_width,
            "interval_score": self.interval_score,
        }


def summarize(scored: Iterable[Scored], rows: int) -> Summary:
    """Errors and coverage of a group with `rows` rows, of which `scored` could be predicted."""
    found = list(scored)
    if not found:
        return Summary(
            rows=rows,
            scored=0,
            median_abs_error=None,
            p90_abs_error=None,
            mean_abs_error=None,
            bias=None,
            coverage90=None,
            median_half_width=None,
            interval_score=None,
        )
    errors = [abs(s.error) for s in found]
    return Summary(
        rows=rows,
        scored=len(found),
        median_abs_error=percentile(errors, 0.5),
        p90_abs_error=percentile(errors, 0.9),
        mean_abs_error=statistics.fmean(errors),
        bias=statistics.fmean(s.error for s in found),
        coverage90=statistics.fmean(1.0 if s.covered else 0.0 for s in found),
        median_half_width=percentile([s.half_width for s in found], 0.5),
        interval_score=statistics.fmean(s.interval_score for s in found),
    )
