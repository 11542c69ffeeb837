"""From two slices of a model to all its layers.

Time and memory grow by the same amount with each layer. The fullest moment of a step may lie in
another part of it at another depth (activations are fullest at the loss, gradients at the end of
the backward pass, states at the optimizer's step), so each part has a line of its own and the
highest of them decides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ftadvisor.schema.probe import Extrapolated, Slice

MIDDLE = " inner layers"


def pooled(rounds: Sequence[tuple[Slice, ...]]) -> tuple[Slice, ...]:
    """The first round's slices with the times of all rounds, each of which has the same depths.

    Of a machine whose speed drifts two depths compare within a round and not across them: the
    deepest has the median of its times, and the others the median of their shares of it.
    """
    return tuple(
        _pooled([one[i] for one in rounds], [one[-1] for one in rounds])
        for i in range(len(rounds[0]))
    )


def _pooled(of: list[Slice], deepest: list[Slice]) -> Slice:
    seconds = [one.step_seconds or 0.0 for one in of]
    base = [one.step_seconds or 0.0 for one in deepest]
    share = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
    # Of the steps of a round, and of the rounds.
    within = statistics.fmean((one.spread or 0.0) ** 2 for one in of)
    between = statistics.pvariance(seconds) / statistics.median(seconds) ** 2
    return of[0]._replace(
        step_seconds=share * statistics.median(base),
        cpu_seconds=statistics.median(one.cpu_seconds or 0.0 for one in of),
        spread=math.sqrt(within + between),
        num_steps=sum(one.num_steps for one in of),
    )


def extrapolated(slices: tuple[Slice, ...], layers: int) -> Extrapolated:
    """The step of `layers` layers from the shallowest and the deepest slice that ran; one alone is
    the whole model."""
    done = sorted((s for s in slices if s.status == "done"), key=lambda s: s.layers)
    few, more = done[0], done[-1]

    def line(a: float, b: float) -> float:
        if more.layers == few.layers:
            return b
        return b + (b - a) / (more.layers - few.layers) * (layers - more.layers)

    peaks = {
        name: line(_peak(few, name), peak)
        for name, peak in more.peaks.items()
        # On the line between their neighbours.
        if not name.endswith(MIDDLE)
    }
    fullest = max(peaks, key=lambda name: peaks[name]) if peaks else ""
    allocated = max(peaks.values(), default=0.0)
    short, long = few.step_seconds or 0.0, more.step_seconds or 0.0
    # On a line through them a deep model's step would take less than nothing.
    measured = more.layers == few.layers or long > short
    return Extrapolated(
        layers=layers,
        step_seconds=line(short, long) if measured else None,
        cpu_seconds=line(few.cpu_seconds or 0.0, more.cpu_seconds or 0.0),
        layer_seconds=(long - short) / (more.layers - few.layers)
        if measured and more.layers > few.layers
        else None,
        allocated_bytes=round(allocated),
        reserved_bytes=_above(few, more, allocated, "reserved_bytes"),
        device_bytes=_above(few, more, allocated, "device_bytes"),
        peak_phase=fullest,
    )


def _peak(few: Slice, name: str) -> int:
    """A part's fullest moment; where there are so few layers that one is the last and the second,
    or the last and the first, it has the one name only."""
    of = name.rpartition(" ")[0].rpartition(" ")[0]
    for known in (name, f"{of} last layer", f"{of} first layer"):
        if known in few.peaks:
            return few.peaks[known]
    return few.allocated_bytes


def _above(few: Slice, more: Slice, allocated: float, name: str) -> int | None:
    """What the allocator, or the device, holds above what is allocated: the part that grows grows
    with what is allocated, and the context does not."""
    low, high = getattr(few, name), getattr(more, name)
    if low is None or high is None:
        return None
    span = more.allocated_bytes - few.allocated_bytes
    slope = (high - low) / span if span > 0 else 1.0
    return round(high + slope * (allocated - more.allocated_bytes))
