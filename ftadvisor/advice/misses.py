"""By how much budget and deadline are missed, where no run keeps to both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ftadvisor.advice.question import Question
from ftadvisor.advice.search import Evaluated, Found
from ftadvisor.units import format_duration, format_usd


def missed(question: Question, found: Found) -> Iterator[str]:
    """A sentence for each limit that no fitting run keeps, or for both together."""
    fitting = [e for e in found.evaluated if e.offers and e.fits.any()]
    if not fitting:
        return
    budget, deadline = question.budget_usd, question.deadline_seconds
    usd = _least(fitting, lambda e: e.total_usd, lambda e: e.fits)
    seconds = _least(fitting, lambda e: e.total_seconds, lambda e: e.fits)
    if budget is not None and usd is not None and usd > budget:
        yield (
            f"The budget is missed by {format_usd(usd - budget)}: the cheapest run costs"
            f" {format_usd(usd)}, {format_usd(budget)} are allowed."
        )
    if deadline is not None and seconds is not None and seconds > deadline:
        yield (
            f"The deadline is missed by {format_duration(seconds - deadline)}: the fastest run"
            f" takes {format_duration(seconds)}, {format_duration(deadline)} are allowed."
        )
    if budget is None or deadline is None or usd is None or seconds is None:
        return
    if usd <= budget and seconds <= deadline:
        yield from _together(fitting, budget, deadline)


def _together(fitting: Sequence[Evaluated], budget: float, deadline: float) -> Iterator[str]:
    """Each can be kept, but not by the same run."""
    in_time = _least(
        fitting, lambda e: e.total_usd, lambda e: e.fits & (e.total_seconds <= deadline)
    )
    affordable = _least(
        fitting, lambda e: e.total_seconds, lambda e: e.fits & (e.total_usd <= budget)
    )
    if in_time is not None and affordable is not None:
        yield (
            "Budget and deadline exclude each other: the cheapest run in time costs"
            f" {format_usd(in_time - budget)} more than the budget, the fastest affordable one"
            f" takes {format_duration(affordable - deadline)} longer than the deadline."
        )


def _least(
    fitting: Sequence[Evaluated], of: Callable[[Evaluated], Any], where: Callable[[Evaluated], Any]
) -> float | None:
    """The smallest value of candidates that a condition holds for; None: of none, or unknown."""
    import numpy

    found: list[float] = []
    for e in fitting:
        values = of(e)[where(e)]
        values = values[~numpy.isnan(values)]
        if values.size:
            found.append(float(values.min()))
    return min(found, default=None)
