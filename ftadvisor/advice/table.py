"""All candidates of a search side by side: the arrays that every choice among them looks at.

A search is chosen from some twenty times (each goal, each threshold of the data), so what does not
change between two choices is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from ftadvisor.advice.question import Offer, Question
from ftadvisor.advice.search import Evaluated, Found
from ftadvisor.schema.settings import Number

NEVER = float("-inf")


class Candidate(NamedTuple):
    """One entry of the arrays."""

    evaluated: Evaluated
    place: int
    utility: float

    @property
    def technique(self) -> str:
        """The technique's id."""
        return self.evaluated.structure.technique.id

    def number(self, name: str) -> float:
        """One of the arrays' values here."""
        return float(getattr(self.evaluated, name)[self.place])

    @property
    def offer(self) -> Offer | None:
        """The GPUs; None: none was named."""
        index = int(self.evaluated.offer_index[self.place])
        return self.evaluated.offers[index] if index >= 0 else None

    @property
    def total_usd(self) -> float | None:
        """Expected cost; None: no price is known."""
        usd = self.number("total_usd")
        return None if math.isnan(usd) else usd

    def setting(self, name: str) -> Any:
        """One of the settings' values here, as a plain number."""
        value = getattr(self.evaluated.settings, name)
        return value[self.place].item() if hasattr(value, "shape") and value.shape else value


class Limits(NamedTuple):
    """Which of the person's limits a technique's candidates keep."""

    fits: bool
    in_budget: bool
    in_time: bool
    least_device_bytes: float
    least_usd: float | None
    least_seconds: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """The arrays of all structures one behind the other, each technique's together."""

    evaluated: tuple[Evaluated, ...]
    starts: Number
    """Where each structure begins."""
    spans: dict[str, slice]
    """The entries of each technique."""
    allowed: Number
    """Where a candidate fits and keeps to budget and deadline."""
    savings: Number
    """Points that a candidate must be worth besides, for what it risks to save memory."""
    log_device_bytes: Number
    log_seconds: Number
    log_spent: Number
    log_gpus: Number
    rented: Number
    device_bytes: Number
    total_seconds: Number
    spent: Number
    """USD, or GPU-hours where an offer has no price: what a halving of cost is about."""
    has_offers: bool
    limits: dict[str, Limits]

    def best(self, value: Number, techniques: Iterable[str] | None = None) -> Candidate | None:
        """The allowed candidate of the greatest value, of all techniques or of some."""
        top: tuple[float, int] | None = None
        for name in self.spans if techniques is None else techniques:
            span = self.spans[name]
            place = span.start + int(value[span].argmax())
            reached = float(value[place])
            if reached > (top[0] if top else NEVER):
                top = reached, place
        return self._candidate(top[1], top[0]) if top else None

    def _candidate(self, place: int, value: float) -> Candidate:
        import numpy

        number = int(numpy.searchsorted(self.starts, place, side="right")) - 1
        return Candidate(self.evaluated[number], place - int(self.starts[number]), value)


def tabulate(question: Question, found: Found) -> Table:
    """The table of a search's candidates."""
    import numpy

    def joined(name: str) -> Any:
        rows = [numpy.broadcast_to(getattr(e, name), e.size) for e in found.evaluated]
        return numpy.concatenate(rows) if rows else numpy.zeros(0)

    sizes = [e.size for e in found.evaluated]
    starts = numpy.cumsum([0, *sizes])
    spans = _spans(found, starts.tolist())
    seconds, usd, device = joined("total_seconds"), joined("total_usd"), joined("device_bytes")
    fits = joined("fits")
    has_offers = bool(question.offers)
    allowed = _allowed(question, fits, usd, seconds) if has_offers else fits
    spent = joined("gpu_hours") if numpy.isnan(usd).any() else usd
    gpus = [numpy.broadcast_to(e.settings.num_gpus, e.size) for e in found.evaluated]
    high = joined("device_high_bytes")
    named = numpy.repeat([_as_named(question, e) for e in found.evaluated], sizes)
    makeshift = numpy.where(named, 0.0, math.inf)
    with numpy.errstate(divide="ignore"):
        # Without a GPU there is no time and no cost: nobody looks at their logarithms.
        log_spent = numpy.log2(spent)
        log_seconds = numpy.log2(seconds + question.worth.unfelt_seconds)
    return Table(
        evaluated=found.evaluated,
        starts=starts,
        spans=spans,
        allowed=allowed,
        savings=numpy.repeat([_savings(question, e) for e in found.evaluated], sizes),
        log_device_bytes=numpy.log2(device),
        log_seconds=log_seconds,
        log_spent=log_spent,
        log_gpus=numpy.log2(numpy.concatenate(gpus)) if gpus else numpy.zeros(0),
        rented=joined("rented"),
        device_bytes=device,
        total_seconds=seconds,
        spent=spent,
        has_offers=has_offers,
        limits={
            name: _limits(
                question, (fits & named)[span], usd[span], seconds[span], (high + makeshift)[span]
            )
            for name, span in spans.items()
        },
    )


def _as_named(question: Question, e: Evaluated) -> bool:
    """LoRA is on a 16-bit base unless the person says otherwise; on 8 bits it is a makeshift, and
    says nothing of whether LoRA fits."""
    return e.settings.quantization != "int8" or "quantization" in question.options


def _spans(found: Found, starts: list[int]) -> dict[str, slice]:
    """A search goes technique by technique."""
    spans: dict[str, slice] = {}
    for e, (start, end) in zip(found.evaluated, pairwise(starts), strict=True):
        name = e.structure.technique.id
        spans[name] = slice(spans[name].start if name in spans else start, end)
    return spans


def _allowed(question: Question, fits: Number, usd: Number, seconds: Number) -> Number:
    allowed = fits
    if question.budget_usd is not None:
        # Not a number: a price that is not known exceeds no budget.
        allowed = allowed & ~(usd > question.budget_usd)
    if question.deadline_seconds is not None:
        allowed = allowed & (seconds <= question.deadline_seconds)
    return allowed


def _savings(question: Question, e: Evaluated) -> float:
    return sum(
        points
        for name, by_value in question.worth.needed_only.items()
        for value, points in by_value.items()
        if getattr(e.settings, name) == value and name not in question.options
    )


def _limits(question: Question, fits: Number, usd: Number, seconds: Number, high: Number) -> Limits:
    import numpy

    known = usd[fits & ~numpy.isnan(usd)]
    least_usd = float(known.min()) if known.size else None
    timed = seconds[fits] if question.offers else seconds[:0]
    least_seconds = float(timed.min()) if timed.size else None
    budget, deadline = question.budget_usd, question.deadline_seconds
    return Limits(
        fits=bool(fits.any()),
        in_budget=budget is None or least_usd is None or least_usd <= budget,
        in_time=deadline is None or least_seconds is None or least_seconds <= deadline,
        least_device_bytes=float(high.min()),
        least_usd=least_usd,
        least_seconds=least_seconds,
    )
