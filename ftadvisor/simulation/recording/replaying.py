"""A recording through the caching allocator, and who holds what at its peak."""

from __future__ import annotations

from collections import Counter

from ftadvisor.simulation.cuda.allocator import CachingAllocator, rounded
from ftadvisor.simulation.recording.record import EMPTY_CACHE, PhasePeak, Recording, Replay


def replay(
    recording: Recording, *, capacity: int | None = None, expandable_segments: bool = False
) -> Replay:
    """What torch's statistics would say after the recorded steps.

    Raises OutOfMemoryError where the capacity does not suffice.
    """
    allocator = CachingAllocator(capacity, expandable_segments=expandable_segments)
    resting = 0
    for index, event in enumerate(recording.events):
        if index == recording.phases[-1].start:
            resting = allocator.allocated_bytes
        if event > 0:
            allocator.allocate(event, recording.allocations[event - 1].size)
        elif event < 0:
            allocator.free(-event)
        else:
            allocator.empty_cache()
    if recording.phases[-1].start == len(recording.events):
        resting = allocator.allocated_bytes
    phases = phase_peaks(recording)
    peak = max(phases, key=lambda phase: phase.live_bytes)
    return Replay(
        allocated_bytes=allocator.peak_allocated_bytes,
        reserved_bytes=allocator.peak_reserved_bytes,
        live_bytes=peak.live_bytes,
        resting_bytes=resting,
        phases=phases,
        peak_phase=peak.name,
        num_retries=allocator.num_retries,
    )


def phase_peaks(recording: Recording) -> tuple[PhasePeak, ...]:
    """The most that is alive in each phase."""
    sizes = [rounded(allocation.size) for allocation in recording.allocations]
    ends = [phase.start for phase in recording.phases[1:]] + [len(recording.events)]
    peaks: list[PhasePeak] = []
    live = 0
    for phase, end in zip(recording.phases, ends, strict=True):
        most, where = live, phase.start
        for index in range(phase.start, end):
            event = recording.events[index]
            if event > 0:
                live += sizes[event - 1]
                if live > most:
                    most, where = live, index
            elif event != EMPTY_CACHE:
                live -= sizes[-event - 1]
        peaks.append(PhasePeak(phase.name, most, where))
    return tuple(peaks)


def live_at(recording: Recording, event: int) -> tuple[int, ...]:
    """Indices of the allocations that are alive right after an event."""
    live: dict[int, None] = {}
    for number in recording.events[: event + 1]:
        if number > 0:
            live[number - 1] = None
        elif number != EMPTY_CACHE:
            del live[-number - 1]
    return tuple(live)


def parts_at(recording: Recording, event: int) -> dict[str, int]:
    """Live bytes by kind right after an event, the largest first."""
    parts: Counter[str] = Counter()
    for index in live_at(recording, event):
        allocation = recording.allocations[index]
        parts[allocation.kind] += rounded(allocation.size)
    return dict(parts.most_common())


def modules_at(recording: Recording, event: int, depth: int = 3) -> dict[str, int]:
    """Live bytes by module, its path cut at `depth` names, the largest first."""
    modules: Counter[str] = Counter()
    for index in live_at(recording, event):
        allocation = recording.allocations[index]
        modules[".".join(allocation.module.split(".")[:depth])] += rounded(allocation.size)
    return dict(modules.most_common())
