"""Plans that win by another measure than the goal's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ftadvisor.advice.choice import NEVER, Candidate, Chosen, allowed, spent
from ftadvisor.advice.question import Question
from ftadvisor.advice.search import Evaluated, Found
from ftadvisor.api.plans import plan_of
from ftadvisor.api.situation import Situation
from ftadvisor.schema.plan import Alternative

WORTH_KNOWING_POINTS = 5.0
"""Further below the chosen technique, nobody wants it for being cheap."""


def alternatives(
    situation: Situation, question: Question, found: Found, chosen: Chosen
) -> tuple[Alternative, ...]:
    """The cheapest, the fastest, the best and the smallest, where they are other plans."""
    assert chosen.best is not None
    picks: list[tuple[str, Candidate]] = []
    if question.offers:
        picks += _least(question, found, chosen, "cheapest", spent)
        picks += _least(question, found, chosen, "fastest", lambda e: e.total_seconds)
    picks += _best_quality(chosen)
    picks += _least(question, found, chosen, "least memory", lambda e: e.device_bytes)
    own = chosen.points.get(chosen.best.technique)
    rows: list[Alternative] = []
    for label, pick in picks:
        if pick[:2] == chosen.best[:2]:
            continue
        points = chosen.points.get(pick.technique)
        gain = None if points is None or own is None else points - own
        rows.append(
            Alternative(
                label=label,
                plan=plan_of(situation, question, pick),
                quality_points=gain,
            )
        )
    return tuple(rows)


def _least(
    question: Question, found: Found, chosen: Chosen, label: str, of: Callable[[Evaluated], Any]
) -> Iterator[tuple[str, Candidate]]:
    """The candidate with the least of something, of techniques good enough to be worth it."""
    import numpy

    best: Candidate | None = None
    for e in found.evaluated:
        if not _worth_knowing(e.structure.technique.id, chosen):
            continue
        value = numpy.where(allowed(question, e), -of(e), NEVER)
        place = int(value.argmax())
        if value[place] > (best.utility if best else NEVER):
            best = Candidate(e, place, float(value[place]))
    if best is not None:
        yield label, best


def _worth_knowing(name: str, chosen: Chosen) -> bool:
    assert chosen.best is not None
    if name == chosen.best.technique:
        return True
    points, own = chosen.points.get(name), chosen.points.get(chosen.best.technique) or 0.0
    return name not in chosen.avoided and points is not None and points > own - WORTH_KNOWING_POINTS


def _best_quality(chosen: Chosen) -> Iterator[tuple[str, Candidate]]:
    known = [
        (points, name)
        for name in chosen.of_technique
        if (points := chosen.points.get(name)) is not None and name not in chosen.avoided
    ]
    if known:
        yield "best quality", chosen.of_technique[max(known)[1]]
