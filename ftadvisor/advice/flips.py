"""What would change the answer: a larger card, other data, another goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ftadvisor.advice.choice import Chosen, choose
from ftadvisor.advice.engine import Verdicts, holding, holds
from ftadvisor.advice.quality import pooled_quality
from ftadvisor.advice.question import Question
from ftadvisor.advice.table import Table
from ftadvisor.schema.rule import Clause, Rule
from ftadvisor.schema.situation import Goal
from ftadvisor.sources.goals import GoalWorth
from ftadvisor.units import format_bytes, format_count

COUNTED = {
    "num_examples": "examples",
    "num_tokens": "tokens",
    "examples_per_class": "examples of the smallest class",
}
"""Facts about data that a person can change, and what to call them."""
GOALS: dict[Goal, str] = {
    "quality": "quality counts most",
    "time": "time counts most",
    "cost": "cost counts most",
    "memory": "memory counts most",
    "balanced": "all count alike",
}


def flips(
    question: Question, table: Table, chosen: Chosen, worths: dict[Goal, GoalWorth]
) -> tuple[str, ...]:
    """Sentences, each with what the answer would be then."""
    if chosen.best is None:
        return ()
    said = [*_larger_card(question, chosen), *_other_data(question, table, chosen)]
    said += _other_goals(question, table, chosen, worths)
    return tuple(dict.fromkeys(said))


def _larger_card(question: Question, chosen: Chosen) -> Iterator[str]:
    """Techniques that would be chosen if they fitted."""
    best = chosen.best
    assert best is not None
    if best.offer is None:
        return
    usable = best.offer.gpu.usable_bytes
    own = chosen.points.get(best.technique) or 0.0
    for name, limits in chosen.limits.items():
        points = chosen.points.get(name)
        if limits.fits or name in chosen.avoided or points is None or points < own:
            continue
        yield (
            f"with {format_bytes(limits.least_device_bytes)} or more on the card instead of"
            f" {format_bytes(usable)}: {name}"
        )


def _other_data(question: Question, table: Table, chosen: Chosen) -> Iterator[str]:
    """Thresholds of rules on the amount of data, and what is chosen on their other side."""
    assert chosen.best is not None
    for rule, clause in _thresholds(question):
        value = float(clause.value)
        now = getattr(question.facts, clause.fact)
        over = now < value
        facts = replace(question.facts, **{clause.fact: value if over else value * (1 - 1e-9)})
        verdicts = holding(question.rules, replace(facts, objective=question.objective))
        then = choose(question, table, verdicts, pooled_quality(verdicts)).best
        if then is not None and then.technique != chosen.best.technique:
            word = "or more" if over else "or fewer"
            noun = COUNTED[clause.fact]
            yield f"with {format_count(value)} {noun} {word}: {then.technique} ({_named(rule)})"


def _named(rule: Rule) -> str:
    return f"{rule.id}, recalled" if rule.evidence == "recalled" else rule.id


def _thresholds(question: Question) -> Iterator[tuple[Rule, Clause]]:
    """Clauses on counts that decide alone whether their rule holds, the nearest first."""
    facts = replace(question.facts, objective=question.objective)
    found: list[tuple[float, Rule, Clause]] = []
    for rule in question.rules:
        for clause in rule.when:
            now = getattr(facts, clause.fact)
            if clause.fact not in COUNTED or clause.operator not in ("below", "at_least"):
                continue
            others = [c for c in rule.when if c is not clause]
            if now and holds(others, facts):
                found.append((abs(now - clause.value) / now, rule, clause))
    seen: set[tuple[str, float]] = set()
    for _, rule, clause in sorted(found, key=lambda row: row[0]):
        if (clause.fact, clause.value) not in seen:
            seen.add((clause.fact, clause.value))
            yield rule, clause


def _other_goals(
    question: Question, table: Table, chosen: Chosen, worths: dict[Goal, GoalWorth]
) -> Iterator[str]:
    assert chosen.best is not None
    for goal, worth in worths.items():
        if goal == question.goal:
            continue
        other = replace(question, goal=goal, worth=worth)
        verdicts: Verdicts = holding(
            question.rules, replace(question.facts, goal=goal, objective=question.objective)
        )
        then = choose(other, table, verdicts, pooled_quality(verdicts)).best
        if then is not None and then.technique != chosen.best.technique:
            yield f"if {GOALS[goal]}: {then.technique}"
