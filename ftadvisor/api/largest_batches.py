"""The largest micro-batch for each max_length on a card, and the longest max_length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ftadvisor.api.estimator import Subject, estimate_subject
from ftadvisor.api.smallest_run import Ask, Judged, filled, judge, smallest
from ftadvisor.configuration.options import LARGEST
from ftadvisor.errors import InvalidSettingError
from ftadvisor.schema.estimate import Verdict
from ftadvisor.schema.fit import Batches, LargestBatch
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.models import FoundModel

SHORTEST = 256
UNKNOWN_CONTEXT = 131_072
"""Where a model has no longest position: lengths are listed as far as the usual models go."""
MOST = int(LARGEST["micro_batch_size"])


def largest_batches(ask: Ask, found: FoundModel) -> tuple[Batches, ...]:
    """One answer for each technique. Raises the first refusal where all are refused."""
    answers: list[Batches] = []
    refused: list[InvalidSettingError] = []
    for technique in ask.techniques():
        try:
            answers.append(_batches(ask, ask.subject(found), technique))
        except InvalidSettingError as error:
            refused.append(error)
    if not answers and refused:
        raise refused[0]
    return tuple(answers)


def _batches(ask: Ask, subject: Subject, technique: Technique) -> Batches:
    subject = smallest(subject, technique)
    # What is wrong whatever the length is raised here, not taken for what does not fit.
    judge(subject, technique)
    room = _Room(subject, technique, from_dataset=ask.from_dataset)
    named = ask.options.get("max_length")
    longest = named if named and room.verdict(named) == "fits" else 0
    tight = named if named and room.verdict(named) != "does_not_fit" else 0
    if not named:
        longest = room.longest("fits")
        tight = room.longest("tight", least=longest)
    lengths = [named] if named else _lengths(subject)
    if "micro_batch_size" in ask.options:
        lengths = []
    own = technique.settings.get("quantization", "none")
    return Batches(
        technique=technique.id,
        quantization=subject.options.get("quantization", own),
        lengths=tuple(cell for cell in map(room.batch, lengths) if cell),
        longest=room.cell(longest, room.least, room.least) if longest else None,
        tight_max_length=tight,
    )


def _lengths(subject: Subject) -> list[int]:
    """Powers of two up to the model's context; a context that is shorter than all of them."""
    context = subject.model.max_position_embeddings or UNKNOWN_CONTEXT
    found = [2**power for power in range(SHORTEST.bit_length() - 1, context.bit_length())]
    return found or [context]


class _Room:
    """One technique on one card: what fits of which length and batch."""

    def __init__(self, subject: Subject, technique: Technique, *, from_dataset: bool) -> None:
        self.subject, self.technique, self.from_dataset = subject, technique, from_dataset
        self.least: int = subject.options["micro_batch_size"]

    def judged(self, max_length: int, micro_batch_size: int) -> Judged:
        own = {"max_length": max_length, "micro_batch_size": micro_batch_size}
        options = filled({**self.subject.options, **own}, from_dataset=self.from_dataset)
        return judge(replace(self.subject, options=options), self.technique)

    def verdict(self, max_length: int, micro_batch_size: int | None = None) -> Verdict:
        return self.judged(max_length, micro_batch_size or self.least).verdict

    def batch(self, max_length: int) -> LargestBatch | None:
        """The largest micro-batch of one length; None where the model has no room for it."""
        try:
            self.verdict(max_length)
        except InvalidSettingError:
            return None

        def fits(size: int) -> bool:
            return self.verdict(max_length, size) == "fits"

        def may_fit(size: int) -> bool:
            return self.verdict(max_length, size) != "does_not_fit"

        size = largest_whole(fits, self.least, MOST)
        tight = largest_whole(may_fit, max(size, self.least), MOST)
        return self.cell(max_length, size, max(size, tight))

    def cell(self, max_length: int, size: int, tight: int) -> LargestBatch:
        run = self.judged(max_length, size).subject if size else None
        return LargestBatch(
            max_length=max_length,
            micro_batch_size=size,
            tight_micro_batch_size=tight,
            estimate=estimate_subject(run, self.technique) if run else None,
        )

    def longest(self, wanted: Verdict, least: int = 0) -> int:
        """The longest max_length at the smallest micro-batch; 0: none."""
        options = self.subject.options
        told = (options.get("mean_length", 1), options.get("longest_length", 1))
        shortest = max(least, *(math.ceil(length) for length in told))

        def holds(max_length: int) -> bool:
            try:
                found = self.verdict(max_length)
            except InvalidSettingError:
                # Longer than the model's positions.
                return False
            return found in ("fits", wanted)

        most = self.subject.model.max_position_embeddings or int(LARGEST["max_length"])
        return largest_whole(holds, shortest, most)


def largest_whole(holds: Callable[[int], bool], least: int, most: int) -> int:
    """The largest whole number for which `holds`, from `least` to `most`; 0: not even the least.

    Doubles until it does not hold, then halves the interval: what holds for a number must hold for
    all smaller ones.
    """
    if not holds(least):
        return 0
    low, high = least, min(2 * least, most)
    while high > low and holds(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
