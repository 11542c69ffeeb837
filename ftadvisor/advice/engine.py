"""Which rules hold, what they say together, and which of two that disagree is followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ftadvisor.schema.rule import (
    Clause,
    Effect,
    Limit,
    Objectives,
    Rule,
    Set,
)
from ftadvisor.schema.situation import Facts

LAYERS = ("physics", "user", "evidence", "convention")
CONFIDENCES = ("high", "medium", "low")
E = TypeVar("E", bound=Effect)


class Fired(NamedTuple):
    """A rule's effect that is followed, and the rules that said otherwise."""

    rule: Rule
    value: Any
    overridden: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    """Rules that disagree with equal right: the reader has to decide."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The rules that hold for some facts."""

    facts: Facts
    rules: tuple[Rule, ...]

    def effects(self, kind: type[E]) -> Iterator[tuple[Rule, E]]:
        """All effects of one kind, with their rules, the strongest rule first."""
        for rule in self.rules:
            for effect in rule.effects:
                if isinstance(effect, kind):
                    yield rule, effect

    def setting(self, name: str) -> Fired | None:
        """The value that the rules give a setting; None: none speaks of it."""
        return _winner([(r, e.value) for r, e in self.effects(Set) if e.setting == name])

    def objective(self) -> Fired | None:
        """What to train for: the strongest rule's list, best first."""
        return _winner([(r, e.objectives) for r, e in self.effects(Objectives)], first=True)

    def setting_names(self) -> tuple[str, ...]:
        """Settings that any rule speaks of."""
        return tuple(dict.fromkeys(e.setting for _, e in self.effects(Set)))

    def limited(self, name: str, value: float, said_by: Rule) -> tuple[float, Rule | None]:
        """A number moved inside the bounds that rules set; the rule that moved it, if one did.

        A bound does not move what a stronger layer says, and of two bounds that exclude each other
        the stronger rule's is kept.
        """
        moved_by: Rule | None = None
        layer = LAYERS.index(said_by.layer)
        for rule, bound in reversed([*self.effects(Limit)]):
            if bound.setting != name or LAYERS.index(rule.layer) > layer:
                continue
            if bound.at_least is not None and value < bound.at_least:
                value, moved_by = bound.at_least, rule
            if bound.at_most is not None and value > bound.at_most:
                value, moved_by = bound.at_most, rule
        return value, moved_by


def holding(rules: Iterable[Rule], facts: Facts) -> Verdicts:
    """The rules whose clauses all hold, the strongest first.

    Those of physics have no clauses: what is computed decides when they hold.
    """
    found = (r for r in rules if r.layer != "physics" and holds(r.when, facts))
    return Verdicts(facts, tuple(sorted(found, key=strength)))


def holds(when: Sequence[Clause], facts: Facts) -> bool:
    """Whether all clauses hold; one about an unknown fact does not."""
    return all(_holds(clause, getattr(facts, clause.fact)) for clause in when)


def _holds(clause: Clause, fact: Any) -> bool:
    if clause.operator == "known":
        return (fact is not None) == clause.value
    if fact is None:
        return False
    match clause.operator:
        case "is":
            return fact == clause.value
        case "in":
            return fact in clause.value
        case "not_in":
            return fact not in clause.value
        case "below":
            return fact < clause.value
        case "at_least":
            return fact >= clause.value


def strength(rule: Rule) -> tuple[int, int, int]:
    """Smaller is stronger: the layer, then how closely it describes the situation, then how sure
    its source is."""
    return (LAYERS.index(rule.layer), -len(rule.when), CONFIDENCES.index(rule.confidence))


def _winner(said: Sequence[tuple[Rule, Any]], *, first: bool = False) -> Fired | None:
    """What the strongest says; of lists that are in order, only the `first` entry is followed."""
    if not said:
        return None
    rule, value = said[0]
    others = [o for o, its in said[1:] if (its[0] != value[0] if first else its != value)]
    tied = tuple(other.id for other in others if strength(other) == strength(rule))
    return Fired(rule, value, tuple(other.id for other in others), tied)
