"""Which candidate serves the goal best, of all that fit, and the best of every technique."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ftadvisor.advice.engine import Verdicts
from ftadvisor.advice.quality import TIED_POINTS, Pooled, Standing
from ftadvisor.advice.question import Offer, Question
from ftadvisor.advice.search import Evaluated, Found
from ftadvisor.configuration.settings import FOUR_BIT
from ftadvisor.schema.rule import Avoid, Recommend

NEVER = float("-inf")
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


def choose(question: Question, found: Found, verdicts: Verdicts, pooled: Pooled) -> Chosen:
    """The candidate of most utility that fits, costs and takes no more than allowed."""
    names = list(dict.fromkeys(e.structure.technique.id for e in found.evaluated))
    points = {n: s.points if (s := pooled.standings.get(n)) else None for n in names}
    avoided = _avoided(question, verdicts)
    recommended = _recommended(question, verdicts)
    careful = {n: _careful(pooled.standings.get(n)) for n in names}
    worth = {n: _quality(n, careful, avoided, recommended, question) for n in names}
    best: dict[str, Candidate] = {}
    limits: dict[str, Limits] = {}
    for name in names:
        own = [e for e in found.evaluated if e.structure.technique.id == name]
        limits[name] = _limits(question, _as_named(question, own))
        candidates = [c for e in own if (c := _best_of(question, e, worth[name])) is not None]
        if candidates:
            best[name] = max(candidates, key=lambda c: c.utility)
    open_to = [c for name, c in best.items() if question.technique in (None, name)]
    chosen = max(open_to, key=lambda c: c.utility, default=None)
    return Chosen(chosen, best, limits, points, avoided, recommended)


def utility(question: Question, e: Evaluated) -> Any:
    """Points that time, cost and memory are worth, an array; more is better.

    A halving is worth what the goal says, so the logarithm counts.
    """
    import numpy

    worth = question.worth
    if not e.offers:
        # Without a GPU there is no time: a smaller run is one that more cards can do.
        return -max(worth.memory, MEMORY_WITHOUT_GPU) * numpy.log2(e.device_bytes)
    found: Any = -worth.memory * numpy.log2(e.device_bytes)
    doubling = worth.gpus["at_hand"]
    doubling = doubling + e.rented * (worth.gpus["rented"] - doubling)
    found = found - doubling * numpy.log2(e.settings.num_gpus)
    found = found - worth.time * numpy.log2(e.total_seconds + worth.unfelt_seconds)
    return found - worth.cost * numpy.log2(spent(e))


def spent(e: Evaluated) -> Any:
    """USD, or GPU-hours where no offer has a price: what a halving of cost is about."""
    import numpy

    return e.gpu_hours if numpy.isnan(e.total_usd).any() else e.total_usd


def allowed(question: Question, e: Evaluated) -> Any:
    """Where a candidate fits and keeps to budget and deadline, an array."""
    found: Any = e.fits
    if not e.offers:
        return found
    if question.budget_usd is not None:
        # Not a number: a price that is not known exceeds no budget.
        found = found & ~(e.total_usd > question.budget_usd)
    if question.deadline_seconds is not None:
        found = found & (e.total_seconds <= question.deadline_seconds)
    return found


def fits_unquantized(question: Question, found: Found) -> bool | None:
    """Whether LoRA on a 16-bit base is among what can be run; None: it was not weighed."""
    own = [
        e
        for e in found.evaluated
        if e.structure.technique.id == "lora" and e.settings.quantization == "none"
    ]
    return any(bool(allowed(question, e).any()) for e in own) if own else None


def _savings(question: Question, e: Evaluated) -> float:
    """Points that a structure must be worth besides, for what it risks to save memory."""
    return sum(
        points
        for name, by_value in question.worth.needed_only.items()
        for value, points in by_value.items()
        if getattr(e.settings, name) == value and name not in question.options
    )


def _best_of(question: Question, e: Evaluated, quality: float) -> Candidate | None:
    import numpy

    quality -= _savings(question, e)
    value = numpy.where(allowed(question, e), quality + utility(question, e), NEVER)
    index = int(value.argmax())
    top = float(value[index])
    return None if top == NEVER else Candidate(e, index, top)


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


def _avoided(question: Question, verdicts: Verdicts) -> dict[str, str]:
    found: dict[str, str] = {}
    for rule, effect in verdicts.effects(Avoid):
        for name in effect.techniques:
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


def _as_named(question: Question, own: Sequence[Evaluated]) -> Sequence[Evaluated]:
    """LoRA is on a 16-bit base unless the person says otherwise; on 8 bits it is a makeshift."""
    if "quantization" in question.options:
        return own
    return [e for e in own if e.settings.quantization != "int8"] or own


def _limits(question: Question, own: Sequence[Evaluated]) -> Limits:
    fits = [e for e in own if e.fits.any()]
    usd = [float(e.total_usd[e.fits].min()) for e in fits]
    usd = [u for u in usd if not math.isnan(u)]
    seconds = [float(e.total_seconds[e.fits].min()) for e in fits if e.offers]
    least_usd, least_seconds = min(usd, default=None), min(seconds, default=None)
    budget, deadline = question.budget_usd, question.deadline_seconds
    return Limits(
        fits=bool(fits),
        in_budget=budget is None or least_usd is None or least_usd <= budget,
        in_time=deadline is None or least_seconds is None or least_seconds <= deadline,
        least_device_bytes=min((float(e.device_high_bytes.min()) for e in own), default=0.0),
        least_usd=least_usd,
        least_seconds=least_seconds,
    )


def pareto(chosen: Chosen) -> frozenset[str]:
    """Techniques that no other one beats: at least as good in quality (within the noise), memory,
    time and cost, and better in one. Unknown quality keeps a technique off the front."""
    rows = {
        name: (
            -(points if (points := chosen.points.get(name)) is not None else NEVER),
            c.number("device_bytes"),
            c.number("total_seconds"),
            c.total_usd if c.total_usd is not None else c.number("gpu_hours"),
        )
        for name, c in chosen.of_technique.items()
        if chosen.points.get(name) is not None
    }
    return frozenset(
        name
        for name, own in rows.items()
        if not any(_beats(other, own) for n, other in rows.items() if n != name)
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether `one` is better in something and worse in nothing; a tie in quality is one."""
    quality = one[0] - other[0]
    if quality >= TIED_POINTS:
        return False
    no_worse = all(a <= b for a, b in zip(one[1:], other[1:], strict=True))
    better = any(a < b for a, b in zip(one[1:], other[1:], strict=True))
    return no_worse and (better or quality <= -TIED_POINTS)
