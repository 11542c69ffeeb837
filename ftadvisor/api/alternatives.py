"""Plans that win by another measure than the goal's."""

from __future__ import annotations

from collections.abc import Iterator

from ftadvisor.advice.choice import Chosen
from ftadvisor.advice.question import Question
from ftadvisor.advice.table import NEVER, Candidate, Table
from ftadvisor.api.plans import plan_of
from ftadvisor.api.situation import Situation
from ftadvisor.schema.plan import Alternative
from ftadvisor.schema.settings import Number

WORTH_KNOWING_POINTS = 5.0
"""Further below the chosen technique, nobody wants it for being cheap."""


def alternatives(
    situation: Situation, question: Question, table: Table, chosen: Chosen
) -> tuple[Alternative, ...]:
    """The cheapest, the fastest, the best and the smallest, where they are other plans."""
    assert chosen.best is not None
    picks: list[tuple[str, Candidate]] = []
    if question.offers:
        picks += _least(table, chosen, "cheapest", table.spent)
        picks += _least(table, chosen, "fastest", table.total_seconds)
    picks += _best_quality(chosen)
    picks += _least(table, chosen, "least memory", table.device_bytes)
    own = chosen.points.get(chosen.best.technique)
    rows: list[Alternative] = []
    for label, pick in picks:
        if pick.evaluated is chosen.best.evaluated and pick.place == chosen.best.place:
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
    table: Table, chosen: Chosen, label: str, values: Number
) -> Iterator[tuple[str, Candidate]]:
    """The candidate with the least of something, of techniques good enough to be worth it."""
    import numpy

    names = [name for name in table.spans if _worth_knowing(name, chosen)]
    best = table.best(numpy.where(table.allowed, -values, NEVER), names)
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
