"""The numbers that a search varies: micro-batches and GPUs, and how long the padded batches are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from ftadvisor.advice.question import Question
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.sources.lengths import batch_lengths

_batch_lengths = cache(batch_lengths)
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Grid(NamedTuple):
    """The numbers of a structure, one entry a candidate."""

    micro_batch_size: Number
    num_gpus: Number
    gradient_accumulation_steps: Number


def grid_of(question: Question, batch: int, counts: Sequence[int], together: int) -> Grid | None:
    """Micro-batches and GPUs that make about the batch; `together`: answers of one prompt."""
    import numpy

    given = question.options
    # KTO pairs the answers of a micro-batch: one alone is refused.
    sizes = MICRO_BATCHES[1:] if question.objective == "kto" else MICRO_BATCHES
    micro = [given["micro_batch_size"]] if "micro_batch_size" in given else sizes
    steps = given.get("gradient_accumulation_steps")
    rows: list[tuple[int, int, int]] = []
    for size, gpus in itertools.product(micro, counts):
        accumulation = steps or max(1, round(batch / (size * gpus)))
        if (size * gpus * accumulation) % together:
            continue
        # A step must not hold more than was meant, unless one sequence on each GPU already does.
        if size == micro[0] or size * gpus <= batch:
            rows.append((size, gpus, accumulation))
    if not rows:
        return None
    columns: Any = numpy.array(rows).T
    return Grid(*columns)


def lengths_of(question: Question, one: Settings, micro: Number) -> dict[str, Number]:
    """Lengths of padded batches for each micro-batch size, as `resolve` computes them for one."""
    if one.packing:
        return {}
    import numpy

    workload = question.workload
    stated = question.options.get("mean_length")
    mean = stated or min(workload.mean_tokens, one.max_length)
    asked = question.options.get("longest_length") or workload.longest_tokens
    # Data whose longest is below the mean are not those that the mean is of.
    longest = min(asked, one.max_length) if asked and asked >= mean else None
    sizes = [int(size) for size in micro]
    found = {
        size: _batch_lengths(
            cap=one.max_length,
            mean=mean,
            deviation=workload.deviation_tokens,
            longest=longest,
            micro_batch_size=size,
            mean_of_cut=bool(stated),
        )
        for size in set(sizes)
    }
    ratio = workload.padded_over_mean
    padded = [
        found[size].mean_padded if ratio is None else min(mean * ratio, found[size].longest)
        for size in sizes
    ]
    return {
        "mean_length": mean,
        "longest_length": numpy.array([found[size].longest for size in sizes]),
        "typical_length": numpy.array([found[size].typical for size in sizes]),
        "mean_padded_length": numpy.array(padded),
    }
