"""How good a trained model is: what `ftadvisor eval` answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftadvisor.schema.display import Displayed
from ftadvisor.schema.report import Answer, Event, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Displayed):
    """Of a model, or of an adapter beside its base."""

    model: str
    base: str | None
    """The model under the adapter, which `before` is of; None: a whole model."""
    objective: str
    dataset: str
    num_rows: int
    metrics: Mapping[str, Metric]
    answers: tuple[Answer, ...]
    events: tuple[Event, ...]
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, as `eval --json` prints them."""
        return {
            "model": self.model,
            "base": self.base,
            "objective": self.objective,
            "dataset": self.dataset,
            "num_rows": self.num_rows,
            "metrics": {name: metric._asdict() for name, metric in self.metrics.items()},
            "answers": [answer._asdict() for answer in self.answers],
            "events": [event._asdict() for event in self.events],
            "seed": self.seed,
        }
