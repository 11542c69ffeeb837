"""A rule: when it holds, what it does, why, and who says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Operator = Literal["is", "in", "not_in", "below", "at_least", "known"]
Layer = Literal["physics", "user", "evidence", "convention"]
"""Which rule wins where two contradict each other: the first named."""
Evidence = Literal["opened", "secondary", "abstract", "recalled", "derived", "given"]
"""How the figure is known: read at its source; on a page that cites it; from the abstract; from
memory, not checked; computed here; said by the user."""
Confidence = Literal["high", "medium", "low"]


class Clause(NamedTuple):
    """One condition on one fact of `schema.situation.Facts`."""

    fact: str
    operator: Operator
    value: Any


class Quality(NamedTuple):
    """`technique` scored `points` more than `versus` (accuracy points, 0 to 100)."""

    technique: str
    versus: str
    points: float
    spread: float
    """One standard deviation: seeds, and transfer to other tasks [points]."""


class Recommend(NamedTuple):
    """Techniques that are usual here."""

    techniques: tuple[str, ...]


class Avoid(NamedTuple):
    """Techniques that are not put forward while another one works."""

    techniques: tuple[str, ...]


class Set(NamedTuple):
    """A setting's value."""

    setting: str
    value: Any


class Limit(NamedTuple):
    """Bounds of a setting."""

    setting: str
    at_least: float | None
    at_most: float | None


class Objectives(NamedTuple):
    """What to train for, best first."""

    objectives: tuple[str, ...]


class Measure(NamedTuple):
    """What to measure before and after training."""

    metrics: tuple[str, ...]


class Sizes(NamedTuple):
    """Size classes that are usual for a use case."""

    sizes: tuple[str, ...]


class Warn(NamedTuple):
    """A sentence that the plan's owner must read."""

    sentence: str


class Note(NamedTuple):
    """A sentence that informs."""

    sentence: str


class FirstTry(NamedTuple):
    """What to try before fine-tuning, and the sign that it will do."""

    what: str
    sign: str


Effect = (
    Quality
    | Recommend
    | Avoid
    | Set
    | Limit
    | Objectives
    | Measure
    | Sizes
    | Warn
    | Note
    | FirstTry
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of `data/rules/`, or of a user's own file."""

    id: str
    topic: str
    layer: Layer
    when: tuple[Clause, ...]
    """All must hold."""
    effects: tuple[Effect, ...]
    reason: str
    """One sentence for the plan's owner."""
    number: str
    """The figures behind it."""
    source: str
    url: str
    date: str
    """Of the source."""
    evidence: Evidence
    confidence: Confidence
    contradicts: tuple[str, ...] = ()
    """Rules that say otherwise, as their authors know."""
