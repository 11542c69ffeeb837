"""Expected quality of techniques from cited comparisons, put together as a network.

Each comparison says: this technique scored so many points more than that one, give or take. All
that hold for the situation are solved together by weighted least squares (a network meta-analysis
with fixed effects and normal errors), so that techniques which nobody compared directly stand on
one scale. What no chain of comparisons joins to the reference stays unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ftadvisor.advice.engine import Verdicts
from ftadvisor.schema.rule import Quality, Rule

REFERENCE = "lora"
NORMAL_90 = 1.645
"""Half of a 90 % interval in standard deviations."""
BETWEEN_STUDIES = 2.0
"""Standard deviation of one comparison between studies [points], added to its own as squares: task,
base model and tuning effort differ. PEFT's table and the papers differ by as much on the techniques
that both have (see docs/rules.md)."""
TIED_POINTS = 3.0
"""Smaller differences of single runs are noise: a standard error of 1.4 points on 1,319 questions,
twice."""


class Standing(NamedTuple):
    """Points of a technique over the reference, with a 90 % interval."""

    points: float
    low: float
    high: float
    rules: tuple[str, ...]
    """The comparisons that it rests on directly."""


class Contradiction(NamedTuple):
    """A comparison that lies outside what all of them together say."""

    rule: str
    technique: str
    says: float
    pooled: float


class Outranked(NamedTuple):
    """Comparisons that one of the person's own stands in the place of."""

    rule: str
    comparison: Quality
    others: tuple[tuple[str, float], ...]
    """Rules and their points, the same way round."""


class Pooled(NamedTuple):
    """All techniques that the evidence reaches."""

    standings: dict[str, Standing]
    contradictions: tuple[Contradiction, ...]
    outranked: tuple[Outranked, ...] = ()


def pooled_quality(verdicts: Verdicts) -> Pooled:
    """Standings of all techniques joined to the reference by evidence that holds here."""
    return pool(list(verdicts.effects(Quality)))


def pool(comparisons: Sequence[tuple[Rule, Quality]]) -> Pooled:
    """Weighted least squares over comparisons; only what is joined to the reference.

    Of two techniques that the person compares, nobody else's comparison counts.
    """
    comparisons, outranked = _followed(comparisons)
    names = _joined([c for _, c in comparisons])
    used = [(r, c) for r, c in comparisons if c.technique in names and c.versus in names]
    place = {name: i for i, name in enumerate(n for n in names if n != REFERENCE)}
    size = len(place)
    matrix = [[0.0] * size for _ in range(size)]
    right = [0.0] * size
    for _, c in used:
        weight = 1.0 / (c.spread**2 + BETWEEN_STUDIES**2)
        ends = [(place[n], s) for n, s in ((c.technique, 1.0), (c.versus, -1.0)) if n in place]
        for i, sign in ends:
            right[i] += weight * sign * c.points
            for j, other in ends:
                matrix[i][j] += weight * sign * other
    import numpy

    inverse = numpy.linalg.inv(numpy.array(matrix).reshape(size, size))
    points: list[float] = (inverse @ right).tolist()
    value = {name: points[i] for name, i in place.items()} | {REFERENCE: 0.0}
    error = {name: float(inverse[i, i]) ** 0.5 for name, i in place.items()} | {REFERENCE: 0.0}
    direct: dict[str, list[str]] = {name: [] for name in names}
    for rule, c in used:
        direct[c.technique].append(rule.id)
        direct[c.versus].append(rule.id)
    standings = {
        name: Standing(
            value[name],
            value[name] - NORMAL_90 * error[name],
            value[name] + NORMAL_90 * error[name],
            tuple(dict.fromkeys(direct[name])),
        )
        for name in names
    }
    return Pooled(standings, tuple(_contradictions(used, value)), outranked)


def _followed(
    comparisons: Sequence[tuple[Rule, Quality]],
) -> tuple[list[tuple[Rule, Quality]], tuple[Outranked, ...]]:
    own = {frozenset(c[:2]) for r, c in comparisons if r.layer == "user"}
    kept = [(r, c) for r, c in comparisons if r.layer == "user" or frozenset(c[:2]) not in own]
    outranked: list[Outranked] = []
    for rule, c in comparisons:
        if rule.layer != "user":
            continue
        others = tuple(
            (other.id, o.points if o.technique == c.technique else -o.points)
            for other, o in comparisons
            if other.layer != "user" and frozenset(o[:2]) == frozenset(c[:2])
        )
        outranked += [Outranked(rule.id, c, others)] if others else []
    return kept, tuple(outranked)


def _contradictions(
    used: Sequence[tuple[Rule, Quality]], value: dict[str, float]
) -> list[Contradiction]:
    found: list[Contradiction] = []
    for rule, c in used:
        expected = value[c.technique] - value[c.versus]
        if abs(expected - c.points) > max(NORMAL_90 * c.spread, TIED_POINTS):
            found.append(Contradiction(rule.id, c.technique, c.points, expected))
    return found


def _joined(comparisons: Sequence[Quality]) -> tuple[str, ...]:
    """Techniques that a chain of comparisons joins to the reference, in the order of joining."""
    names = {REFERENCE: None}
    grew = True
    while grew:
        grew = False
        for c in comparisons:
            ends = (c.technique, c.versus)
            if any(n in names for n in ends) and not all(n in names for n in ends):
                names |= dict.fromkeys(ends)
                grew = True
    return tuple(names)
