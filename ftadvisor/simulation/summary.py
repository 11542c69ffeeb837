"""A run's recording as a record: peaks, who holds them, the timeline and the work."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from ftadvisor.configuration.depths import depth
from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.read_only import read_only
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.simulation import (
    UNSPLIT,
    Consumer,
    Moment,
    PhaseUse,
    PhaseWork,
    SimulatedStep,
    Timeline,
)
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.allocator import OutOfMemoryError, rounded
from ftadvisor.simulation.cuda.grids import grid_of
from ftadvisor.simulation.depth import deep_recording
from ftadvisor.simulation.model.building import transformers_config
from ftadvisor.simulation.recording.pattern import layer_pattern
from ftadvisor.simulation.recording.record import EMPTY_CACHE, Allocation, Kind, Recording, Replay
from ftadvisor.simulation.recording.replaying import live_at, parts_at, replay
from ftadvisor.simulation.sharding.rank import sharding_assumed
from ftadvisor.simulation.stack import transformers
from ftadvisor.simulation.training.objectives import GENERATING
from ftadvisor.sources.models import CODE

KINDS: tuple[str, ...] = get_args(Kind)
MOST_CONSUMERS = 12
MOMENTS = 480
"""Points of a timeline that is shown."""
FEWEST_MOMENTS = 6
"""Of one phase, however short."""
MOST_LAYERS = 128
"""Different layers of a model that are run: beyond them it takes minutes."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_WRAPPER = "base_model.model."


def summarized(
    config: dict[str, Any],
    settings: Settings,
    trainer: Trainer,
    gpu: Gpu | None,
    capability: tuple[int, int],
    context_bytes: float,
) -> SimulatedStep:
    """Run, replay and sum up. Raises UnsupportedError for what cannot be simulated."""
    began = time.perf_counter()
    check_code(config)
    _check_layers(config)
    grid = grid_of(gpu, capability)
    recording = deep_recording(config, settings, trainer, compute_capability=capability, grid=grid)
    found = on_card(recording, None if gpu is None else int(gpu.usable_bytes - context_bytes))
    peak = max(found.phases, key=lambda phase: phase.live_bytes)
    cause = recording.allocations[recording.events[peak.event] - 1]
    parts = parts_at(recording, peak.event)
    unsplit = found.allocated_bytes - sum(parts.values())
    parts |= {UNSPLIT: unsplit} if unsplit else {}
    live = [recording.allocations[index] for index in live_at(recording, peak.event)]
    made = (a for a in live if a.operation not in ("adopted", ""))
    return SimulatedStep(
        allocated_bytes=found.allocated_bytes,
        reserved_bytes=found.reserved_bytes,
        device_bytes=round(found.reserved_bytes + context_bytes),
        peak_phase=peak.name,
        peak_module=module_name(cause.module),
        peak_operation=cause.operation,
        parts=read_only(parts),
        modules=consumers((module_name(a.module), a) for a in live),
        operations=consumers((a.operation, a) for a in made),
        phases=tuple(PhaseUse(phase.name, phase.live_bytes) for phase in found.phases),
        timeline=timeline(recording),
        work=work_of(recording),
        attention=read_only(dict(recording.attention)),
        num_layers=recording.num_layers,
        num_trainable_params=recording.num_trainable_params,
        num_retries=found.num_retries,
        seconds=time.perf_counter() - began,
        versions=read_only({}),
        assumptions=(*_assumed(settings, trainer, gpu), *sharding_assumed(settings, trainer)),
    )


def check_code(config: dict[str, Any]) -> None:
    """Raise UnsupportedError for code that comes with a checkpoint, unless it is trusted."""
    name = config.get("model_type")
    if "auto_map" not in config or name in transformers.CONFIG_MAPPING or config.get(CODE):
        return
    reason, instead = "its code comes with the checkpoint (auto_map), and ", "--trust-remote-code"
    if CODE in config:
        reason += "that is not on this machine"
        instead = "--model DIRECTORY, which holds config.json and the code"
    else:
        reason += "such code is executed only where you say so"
    raise UnsupportedError.of(f"model_type {quoted(name)}", reason, [instead])


def _check_layers(config: dict[str, Any]) -> None:
    made = transformers_config(config)
    pattern = layer_pattern(made)
    layers = depth(made) if pattern is None else pattern.recorded
    if layers > MOST_LAYERS:
        reason = f"{layers} of its layers differ, and to run them all would take minutes"
        raise UnsupportedError.of(f"model_type {quoted(made.model_type)}", reason)


def on_card(recording: Recording, capacity: int | None) -> Replay:
    """The replay on a card that torch has `capacity` bytes of; None: on one without end.

    What does not fit is replayed as if it did: how much is missing is the answer then.
    """
    free = replay(recording)
    if capacity is None or free.reserved_bytes <= capacity:
        return free
    try:
        return replay(recording, capacity=capacity)
    except OutOfMemoryError:
        return free


def module_name(path: str) -> str:
    """A module's path in the base model, layers without their number."""
    return _NUMBER.sub("*", path.removeprefix(_WRAPPER)) or "outside of all modules"


def consumers(named: Iterable[tuple[str, Allocation]]) -> tuple[Consumer, ...]:
    """The largest groups of storages by name and kind."""
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for name, allocation in named:
        sizes[name, allocation.kind] += rounded(allocation.size)
        counts[name, allocation.kind] += 1
    largest = sizes.most_common(MOST_CONSUMERS)
    return tuple(Consumer(*key, size, counts[key]) for key, size in largest)


def work_of(recording: Recording) -> tuple[PhaseWork, ...]:
    """All layers' work, by phase and category."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for work in recording.work:
        row = sums[work.phase, work.category]
        row[0] += work.flops
        row[1] += work.moved_bytes
        row[2] += work.kernels
    return tuple(PhaseWork(*key, flops, moved, int(n)) for key, (flops, moved, n) in sums.items())


def timeline(recording: Recording) -> Timeline:
    """Live bytes by kind, from the first forward on."""
    spans = list(_spans(recording))
    return Timeline(
        kinds=KINDS,
        phases=tuple(phase.name for phase in recording.phases[1:]),
        moments=tuple(_moments(recording, spans)),
        num_events=len(recording.events) - recording.phases[1].start,
    )


def _spans(recording: Recording) -> Iterator[tuple[int, int]]:
    """(where it ends, its phase), event by event: the stretches that get one point each."""
    start = recording.phases[1].start
    ends = [phase.start for phase in recording.phases[2:]] + [len(recording.events)]
    whole = max(1, len(recording.events) - start)
    for at, end in enumerate(ends):
        length = end - recording.phases[at + 1].start
        pieces = max(FEWEST_MOMENTS, round(MOMENTS * length / whole))
        pieces = min(pieces, length)
        for piece in range(1, pieces + 1):
            yield end - length + length * piece // pieces, at


def _moments(recording: Recording, spans: list[tuple[int, int]]) -> Iterator[Moment]:
    place = {kind: at for at, kind in enumerate(KINDS)}
    live = [0] * len(KINDS)
    start = recording.phases[1].start
    index = total = 0

    def follow(event: int) -> int:
        if event == EMPTY_CACHE:
            return 0
        allocation = recording.allocations[abs(event) - 1]
        change = rounded(allocation.size) * (1 if event > 0 else -1)
        live[place[allocation.kind]] += change
        return change

    for event in recording.events[:start]:
        total += follow(event)
    index = start
    for end, phase in spans:
        most, best, highest = -1, index, tuple(live)
        for at in range(index, end):
            total += follow(recording.events[at])
            if total > most:
                most, best, highest = total, at, tuple(live)
        cause = recording.events[best]
        made = recording.allocations[abs(cause) - 1] if cause != EMPTY_CACHE else None
        yield Moment(
            event=best - start,
            phase=phase,
            module=module_name(made.module) if made else "",
            operation=made.operation if made and cause > 0 else "",
            live_bytes=highest,
        )
        index = end


def _assumed(settings: Settings, trainer: Trainer, gpu: Gpu | None) -> tuple[str, ...]:
    longest = int(settings.longest_length or settings.max_length)
    typical = int(settings.typical_length) or longest
    said = [f"simulated: two optimizer steps of {longest} tokens a sequence"]
    if typical != longest and trainer.longest_first:
        said = [
            f"simulated: two optimizer steps, the first batch of {longest} tokens a sequence (the"
            f" longest, as {trainer.framework} does), all others of {typical} (typical batches)"
        ]
    elif typical != longest:
        said = [
            f"simulated: optimizer steps of about {typical} tokens a sequence (typical batches),"
            f" then one of {longest} (the longest)"
        ]
    if settings.gradient_accumulation_steps > 2:
        said.append("simulated: two micro-batches of each step; later ones are like the second")
    if settings.objective in GENERATING:
        said.append(
            "reserved memory: a cache that grows token by token leaves blocks of all sizes behind,"
            f" which torch gives back where the card ends{'' if gpu else '; none was named'}"
        )
    if settings.objective == "distillation":
        said.append("simulated: a teacher like the student, in its checkpoint's dtype")
    return tuple(said)
