"""What one recorded step holds: every storage, when it came and went, and each operation's work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal[
    "weights", "buffers", "adapters", "optimizer", "gathered", "gradients", "activations",
    "temporaries", "workspace", "batch",
]  # fmt: skip
"""From what lives longest to what is soon gone: how they are stacked."""
Category = Literal[
    "linear", "attention", "elementwise", "logits", "dequantisation", "optimizer", "none"
]


class Allocation(NamedTuple):
    """One storage."""

    size: int
    """As it was asked for [bytes]."""
    phase: int
    """Index into the recording's phases."""
    module: str
    """Dotted path of the module whose forward, or whose forward's derivative, made it."""
    operation: str
    kind: Kind


class Phase(NamedTuple):
    """A stretch of the step: forward, backward, clip, step of each optimizer step."""

    name: str
    start: int
    """Index of its first event."""


class Work(NamedTuple):
    """What the operations of one category, module and phase do."""

    phase: str
    category: Category
    flops: float
    moved_bytes: float
    """Read and written, views and aliases not counted twice."""
    kernels: int
    layer: int | None = None
    """None: outside of all layers."""


EMPTY_CACHE = 0
"""The event of a program that gives the cache back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A step as the allocator sees it, in order."""

    allocations: tuple[Allocation, ...]
    events: tuple[int, ...]
    """n: allocation n - 1 is made; -n: it is freed; 0: the cache is emptied."""
    phases: tuple[Phase, ...]
    work: tuple[Work, ...] = ()
    num_layers: int = 0
    num_trainable_params: int = 0
    trainable_params: tuple[tuple[int | None, int], ...] = ()
    """How many of them each layer has; None: what lies outside of all."""
    trainable_bytes: tuple[tuple[int | None, int], ...] = ()
    """Each trained parameter's layer and gradient [bytes], in the model's order."""
    seconds: float = 0.0
    """How long the simulation took [s]."""
    attention: tuple[tuple[str, int], ...] = ()
    """How often each SDPA back end was chosen."""

    def phase_name(self, allocation: Allocation) -> str:
        """The phase in which an allocation was made."""
        return self.phases[allocation.phase].name


class PhasePeak(NamedTuple):
    """The highest point of a phase."""

    name: str
    live_bytes: int
    """Sum of live storages, each rounded as the allocator rounds."""
    event: int
    """Index of the event that reached it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What torch would have reported of a recording."""

    allocated_bytes: int
    """torch.cuda.max_memory_allocated of the last optimizer step."""
    reserved_bytes: int
    """torch.cuda.max_memory_reserved of the whole run."""
    live_bytes: int
    """The peak of live storages, without what the allocator leaves unsplit."""
    resting_bytes: int
    """Allocated after the last step, while the loop still holds what it holds."""
    phases: tuple[PhasePeak, ...]
    peak_phase: str
    num_retries: int = 0
