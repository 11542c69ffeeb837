"""The smallest card on which a model can be trained, and the fewest of each kind."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import NamedTuple

from ftadvisor.api.estimator import Subject, estimate_subject
from ftadvisor.api.smallest_run import Ask, Judged, hopeless, judge, smallest
from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.gpus import GpuMatch, all_gpus
from ftadvisor.sources.models import FoundModel
from ftadvisor.sources.prices import cheapest_price

MACHINE = 8
"""GPUs in the largest usual machine: from there on, whole machines are added."""
COUNTS = (*range(1, MACHINE + 1), *range(2 * MACHINE, 33 * MACHINE, MACHINE))


class Cards(NamedTuple):
    """Estimates, the fewest and smallest cards first."""

    fits: tuple[Estimate, ...]
    tight: tuple[Estimate, ...]
    """Where the smallest number of cards that was asked about is tight."""


def smallest_cards(ask: Ask, found: FoundModel) -> Cards:
    """With a technique, all kinds of cards; without, each technique's first.

    Raises the first refusal where no card is left.
    """
    fits: list[Estimate] = []
    tight: list[Estimate] = []
    refused: list[InvalidSettingError] = []
    techniques = ask.techniques()
    for technique in techniques:
        cards = _cards(ask, found, technique, refused)
        shown = None if ask.technique else 1
        fits += [estimate_subject(j.subject, technique) for j in cards.fits[:shown]]
        if ask.technique:
            tight += [estimate_subject(j.subject, technique) for j in cards.tight]
    if not fits and not tight and len(refused) == len(techniques) * len(all_gpus()):
        raise refused[0]
    return Cards(tuple(fits), tuple(tight))


class _Found(NamedTuple):
    """The same before it is estimated in full."""

    fits: list[Judged]
    tight: list[Judged]


def _cards(
    ask: Ask, found: FoundModel, technique: Technique, refused: list[InvalidSettingError]
) -> _Found:
    fits: list[Judged] = []
    tight: list[Judged] = []
    counts = (ask.options["num_gpus"],) if "num_gpus" in ask.options else COUNTS
    for gpu in all_gpus():
        try:
            subject = smallest(ask.subject(found, GpuMatch(gpu, None)), technique)
            first = _judged(subject, technique, counts[0])
        except InvalidSettingError as error:
            refused.append(error)
            continue
        tight += [first] if first is not None and first.verdict == "tight" else []
        judged = _fewest(subject, technique, counts, first)
        fits += [judged] if judged is not None else []
    return _Found(sorted(fits, key=_place), sorted(tight, key=_place))


def _place(judged: Judged) -> tuple[int, int, float, str]:
    """The fewest first, then the smallest, then the cheapest."""
    subject = judged.subject
    assert subject.gpu is not None
    price = cheapest_price(subject.gpu.id, date.today())
    usd = price.usd_per_gpu_hour if price else float("inf")
    return subject.options.get("num_gpus", 1), subject.gpu.usable_bytes, usd, subject.gpu.id


def _fewest(
    subject: Subject, technique: Technique, counts: Sequence[int], first: Judged | None
) -> Judged | None:
    """By bisection: sharding divides states and weights, so more cards never hold less each."""
    if first is not None and first.verdict == "fits":
        return first
    if not _shares(subject):
        return None
    judged: dict[int, Judged | None] = {}

    def fits(count: int) -> bool:
        judged[count] = _judged(subject, technique, count)
        found = judged[count]
        return found is not None and found.verdict == "fits"

    try:
        place = bisect_left(counts, True, lo=1, key=fits)
    except (InvalidSettingError, UnsupportedError):
        # Several of a kind that works alone only, a strategy that needs one, or none takes it.
        return None
    return judged[counts[place]] if place < len(counts) else None


def _shares(subject: Subject) -> bool:
    """Whether several cards hold less each: without a strategy, one that shards is taken."""
    return subject.options.get("strategy", "zero3") != "ddp" and not _alone(subject.gpu)


def _alone(gpu: Gpu | None) -> bool:
    return gpu is not None and gpu.vendor == "apple"


def _judged(subject: Subject, technique: Technique, count: int) -> Judged | None:
    """None: by its weights alone, without an estimate."""
    if hopeless(subject, technique, count):
        return None
    return judge(replace(subject, options={**subject.options, "num_gpus": count}), technique)
