"""DDP's buckets: flat buffers that gradients are copied into while they are reduced.

They stay for the whole run, beside the gradients (gradient_as_bucket_view is off in accelerate and
Trainer). Their sizes need all layers' parameters, so they join a recording last, when it is deep.
Ref: torch/nn/parallel/distributed.py; torch/csrc/distributed/c10d/reducer.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.recording.record import Allocation, Phase, Recording
from ftadvisor.units import MIB

FIRST_CAP = MIB
"""_DEFAULT_FIRST_BUCKET_BYTES."""
CAP = 25 * MIB
"""bucket_cap_mb."""


def bucket_sizes(gradients: Iterable[int]) -> list[int]:
    """Bytes of each bucket: it takes gradients until it has reached its cap
    (compute_bucket_assignment_by_size).
    """
    sizes: list[int] = []
    cap, filled = FIRST_CAP, 0
    for size in gradients:
        filled += size
        if filled >= cap:
            sizes.append(filled)
            cap, filled = CAP, 0
    return sizes + [filled] * bool(filled)


def with_buckets(recording: Recording, settings: Settings) -> Recording:
    """The recording of one of several ranks.

    Trainer looks for unused parameters, except in a model of Transformers' own that is checkpointed
    (trainer.py, _build_accelerator_args). Where it does not, the first step has one bucket, and all
    later ones have buckets in the order in which gradients arrive; where it does, they are in the
    parameters' own order.
    """
    gradients = [size for _, size in recording.trainable_bytes]
    own = settings.technique == "full"
    if not own or settings.gradient_checkpointing == "none":
        return _held(recording, bucket_sizes(gradients), "forward 1", None)
    second = next(phase.name for phase in recording.phases if phase.name.startswith("forward 2"))
    made = _held(recording, [sum(gradients)], "forward 1", second)
    return _held(made, bucket_sizes(reversed(gradients)), second, None)


def _held(recording: Recording, sizes: list[int], first: str, last: str | None) -> Recording:
    """Buffers that are made before a phase begins, and freed before another does."""
    starts = {phase.name: phase.start for phase in recording.phases}
    begin = next(start for name, start in starts.items() if name.startswith(first))
    count = len(recording.allocations)
    index = next(at for at, phase in enumerate(recording.phases) if phase.start == begin)
    new = tuple(Allocation(size, index, "", "bucket", "gradients") for size in sizes)
    made = list(range(count + 1, count + len(new) + 1))
    events = list(recording.events)
    changes = [(begin, made)]
    if last is not None:
        changes.append((starts[last], [-number for number in made]))
    for place, added in reversed(changes):
        events[place:place] = added
    phases = tuple(
        Phase(name, start + sum(len(added) for place, added in changes if place <= start))
        for name, start in recording.phases
    )
    return replace(
        recording, allocations=(*recording.allocations, *new), events=tuple(events), phases=phases
    )
