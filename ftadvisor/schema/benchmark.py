"""Techniques side by side, as probed and, where asked for, as trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvisor.schema.probe import Probe
from ftadvisor.schema.report import Metric, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """One technique."""

    technique: str
    probe: Probe | None
    """None: it could not be probed; `problem` says why."""
    report: Report | None
    """None: it was not trained."""
    problem: str | None = None

    @property
    def quality(self) -> tuple[str, Metric] | None:
        """The metric on what was held out, and its figures; None: nothing was."""
        if self.report is None or not self.report.metrics:
            return None
        name = next((n for n in PREFERRED if n in self.report.metrics), "")
        name = name or next(iter(self.report.metrics))
        return name, self.report.metrics[name]


PREFERRED = ("accuracy", "eval_accuracy", "eval_loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """All techniques of one model and dataset."""

    model: str
    dataset: str
    rows: tuple[Benched, ...]
    train_tokens: int | None
    train_seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "train_tokens": self.train_tokens,
            "train_seconds": self.train_seconds,
            "rows": [
                {
                    "technique": row.technique,
                    "problem": row.problem,
                    "probe": row.probe.as_dict() if row.probe else None,
                    "report": row.report.as_dict() if row.report else None,
                }
                for row in self.rows
            ],
        }
