"""Which candidate serves the goal best, of all that fit, and the best of every technique."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftadvisor.advice.engine import Verdicts
from ftadvisor.advice.quality import TIED_POINTS, Pooled, Standing
from ftadvisor.advice.question import Question
from ftadvisor.advice.table import NEVER, Candidate, Limits, Table
from ftadvisor.configuration.settings import FOUR_BIT
from ftadvisor.schema.rule import Avoid, Recommend

FRONT_TIED_SHARE = 0.01
"""Of time and memory: two runs of one thing differ by more (data/measurements/FORMAT.md)."""
SPOILT_POINTS = 100.0
"""What an avoided technique is short of: it is taken only where nothing else can be."""
MEMORY_WITHOUT_GPU = 0.25
"""Points for a halving of memory where no card is named."""
DOUBT = 0.5
"""Of the way from the expected points to the lower end of their 90 % interval."""
TIED_SHARE = 0.5
"""Of a difference within the noise: it counts, but half."""
UNKNOWN_POINTS = 50.0
"""The same for one whose quality nobody has compared."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best candidate, and the best of every technique that can be run at all."""

    best: Candidate | None
    of_technique: dict[str, Candidate]
    limits: dict[str, Limits]
    points: dict[str, float | None]
    """Expected points against the reference; None: unknown."""
    avoided: dict[str, str]
    """Technique to the rule that advises against it."""
    recommended: dict[str, tuple[str, ...]]
    """Technique to the rules that recommend it."""


def choose(question: Question, table: Table, verdicts: Verdicts, pooled: Pooled) -> Chosen:
    """The candidate of most utility that fits, costs and takes no more than allowed."""
    names = tuple(table.spans)
    points = {n: s.points if (s := pooled.standings.get(n)) else None for n in names}
    avoided = _avoided(verdicts)
    recommended = _recommended(question, verdicts)
    careful = {n: _careful(pooled.standings.get(n)) for n in names}
    value = utility(question, table)
    best: dict[str, Candidate] = {}
    for name in table.spans:
        worth = _quality(name, careful, avoided, recommended, question)
        found = table.best(value, [name])
        if found is not None:
            best[name] = found._replace(utility=worth + found.utility)
    open_to = [c for name, c in best.items() if question.technique in (None, name)]
    chosen = max(open_to, key=lambda c: c.utility, default=None)
    return Chosen(chosen, best, table.limits, points, avoided, recommended)


def utility(question: Question, table: Table) -> Any:
    """Points that time, cost and memory are worth, an array; minus infinity: not allowed.

    A halving is worth what the goal says, so the logarithm counts.
    """
    import numpy

    worth = question.worth
    if not table.has_offers:
        # Without a GPU there is no time: a smaller run is one that more cards can do.
        found: Any = -max(worth.memory, MEMORY_WITHOUT_GPU) * table.log_device_bytes
    else:
        doubling = worth.gpus["at_hand"]
        doubling = doubling + table.rented * (worth.gpus["rented"] - doubling)
        found = -worth.memory * table.log_device_bytes - doubling * table.log_gpus
        found = found - worth.time * table.log_seconds - worth.cost * table.log_spent
    return numpy.where(table.allowed, found - table.savings, NEVER)


def fits_unquantized(table: Table) -> bool | None:
    """Whether LoRA on a 16-bit base is among what can be run; None: it was not weighed."""
    own = [
        bool(table.allowed[start : start + e.size].any())
        for start, e in zip(table.starts, table.evaluated, strict=False)
        if e.structure.technique.id == "lora" and e.settings.quantization == "none"
    ]
    return any(own) if own else None


def _careful(standing: Standing | None) -> float | None:
    """Expected points, less what is not known of them: few comparisons, or some that disagree,
    do not outweigh a technique that many have tried."""
    if standing is None:
        return None
    return standing.points - DOUBT * (standing.points - standing.low)


def _quality(
    name: str,
    points: dict[str, float | None],
    avoided: dict[str, str],
    recommended: dict[str, tuple[str, ...]],
    question: Question,
) -> float:
    """Points short of the best technique; what is within the noise counts as equal."""
    known = [p for n, p in points.items() if p is not None and n not in avoided]
    own = points[name]
    if own is None:
        # What nobody compared is taken where a convention vouches for it.
        short = 0.0 if name in recommended else UNKNOWN_POINTS
    else:
        short = max(known, default=own) - own
        if short < TIED_POINTS and question.goal != "quality":
            short *= TIED_SHARE
    if name in avoided:
        short += SPOILT_POINTS
    return question.worth.recommended * min(len(recommended.get(name, ())), 2) - short


def _avoided(verdicts: Verdicts) -> dict[str, str]:
    found: dict[str, str] = {}
    wanted = {
        name
        for rule, effect in verdicts.effects(Recommend)
        if rule.layer == "user"
        for name in effect.techniques
    }
    for rule, effect in verdicts.effects(Avoid):
        for name in effect.techniques:
            # What the person's own rule recommends, only another one of theirs forbids.
            if rule.layer == "user" or name not in wanted:
                found.setdefault(name, rule.id)
    return found


def _recommended(question: Question, verdicts: Verdicts) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for rule, effect in verdicts.effects(Recommend):
        for name in effect.techniques:
            found[name] = (*found.get(name, ()), rule.id)
    if question.options.get("quantization") in FOUR_BIT:
        # On a base that is in four bits anyway, LoRA goes by the name of QLoRA.
        found["qlora"] = (*found.get("qlora", ()), *found.get("lora", ()))
    return found


def pareto(chosen: Chosen) -> frozenset[str]:
    """Techniques that no other one beats in quality, memory, time or cost.

    Unknown quality keeps a technique off the front.
    """
    return front(
        {
            name: (
                points,
                c.number("device_bytes"),
                c.number("total_seconds"),
                c.total_usd if c.total_usd is not None else c.number("gpu_hours"),
            )
            for name, c in chosen.of_technique.items()
            if (points := chosen.points.get(name)) is not None
        }
    )


def front(rows: Mapping[str, tuple[float, ...]]) -> frozenset[str]:
    """Names that no other one beats: at least as good in all, and better in one.

    The first figure is quality in points, more is better; of the others less is better. A
    difference within the noise is a tie in either.
    """
    return frozenset(
        name
        for name, own in rows.items()
        if not any(_beats(other, own) for n, other in rows.items() if n != name)
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    quality = one[0] - other[0]
    if quality <= -TIED_POINTS:
        return False
    pairs = list(zip(one[1:], other[1:], strict=True))
    no_worse = all(a <= b * (1 + FRONT_TIED_SHARE) for a, b in pairs)
    better = any(a * (1 + FRONT_TIED_SHARE) < b for a, b in pairs)
    return no_worse and (better or quality >= TIED_POINTS)
