"""What a run did: report.json, and what `run` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, cast

from ftadvisor.schema.display import Displayed, display
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.read_only import writable

Status = Literal["done", "stopped", "diverged", "interrupted", "out_of_memory", "failed"]
"""`stopped`: before its last step, by a rule; `interrupted`: by a person or the system."""


class Metric(NamedTuple):
    """One figure on rows that were not trained on, before and after training."""

    before: float | None
    after: float | None
    low: float | None = None
    """The 90 % interval of `after`; None: not estimated."""
    high: float | None = None


class Answer(NamedTuple):
    """One held-out prompt and what was answered."""

    prompt: str
    reference: str
    """Empty: there is none."""
    before: str
    after: str


class Event(NamedTuple):
    """Something that a reader of the report should know."""

    kind: str
    """data, tokenizer, device, divergence, out_of_memory, ..."""
    step: int
    """Optimizer steps done by then."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Displayed):
    """A run that has ended."""

    status: Status
    plan: Plan
    output_dir: str
    predicted: Mapping[str, float]
    """The plan's estimate by the names of its record: step_seconds, allocated_bytes, ..."""
    measured: Mapping[str, float]
    """The same names, as far as the device can tell; `host_bytes` is the process's peak. Of a CPU
    `allocated_bytes` is the fullest of the steps that were watched, in `memory`."""
    losses: tuple[Mapping[str, float], ...]
    """One row per logged step: `step`, `loss`, and what the trainer logs besides."""
    metrics: Mapping[str, Metric]
    events: tuple[Event, ...]
    versions: Mapping[str, str]
    seed: int
    answers: tuple[Answer, ...] = ()
    """Side by side, before training and after it: a few."""
    memory: tuple[Mapping[str, float], ...] = ()
    """After each step: `step`, and the peak within it, `allocated_bytes`; of a CPU that of watched
    steps alone, and `host_bytes` as they are."""
    labels: tuple[str, ...] = ()
    """The classes, in the order of their numbers."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the run was told beside its plan that changes what it learns: max_steps, eval_dataset,
    ..."""

    def as_page(self) -> str:
        """report.html: one page that needs no other file."""
        return display().as_page(self)

    def as_card(self) -> str:
        """README.md of what was trained."""
        return display().as_card(self)

    @classmethod
    def of(cls, content: Mapping[str, Any], plan: Plan) -> Report:
        """The record of a report.json."""
        parts: dict[str, Any] = {
            "plan": plan,
            "losses": tuple(content["losses"]),
            "metrics": {name: Metric(**row) for name, row in content["metrics"].items()},
            "events": tuple(Event(**row) for row in content["events"]),
            "answers": tuple(Answer(**row) for row in content["answers"]),
            "memory": tuple(content["memory"]),
            "labels": tuple(content["labels"]),
        }
        return cls(**{**content, **parts})

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, as report.json has them."""
        found = cast("dict[str, Any]", writable(asdict(self)))
        found["plan"] = self.plan.as_dict()
        found["metrics"] = {name: metric._asdict() for name, metric in self.metrics.items()}
        found["answers"] = [answer._asdict() for answer in self.answers]
        found["events"] = [event._asdict() for event in self.events]
        return found
