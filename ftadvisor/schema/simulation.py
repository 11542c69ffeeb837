"""What a simulated step says: its peak, who holds it, how it came about, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

from ftadvisor.schema.display import Displayed
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.read_only import read_only, writable

UNSPLIT = "unsplit"
"""The part of a block that a storage does not use, where the allocator does not split it."""


class Consumer(NamedTuple):
    """Storages that are alive at the peak and have something in common."""

    name: str
    """A module's dotted path, `*` for the number of a layer; or an operation of ATen."""
    kind: str
    bytes: int
    tensors: int


class PhaseUse(NamedTuple):
    """A stretch of the step."""

    name: str
    peak_bytes: int
    """The most that is alive in it [bytes]."""


class Moment(NamedTuple):
    """One point of the timeline: the allocation that reached it, and what is alive then."""

    event: int
    """Of the step's allocations and releases, the how manieth."""
    phase: int
    """Index into the timeline's phases."""
    module: str
    operation: str
    live_bytes: tuple[int, ...]
    """By kind, in the order of the timeline's kinds [bytes]."""


class PhaseWork(NamedTuple):
    """What the operations of one phase and category do, all layers together."""

    phase: str
    category: str
    """linear, attention, elementwise, logits, dequantisation, optimizer."""
    flops: float
    moved_bytes: float
    """Read and written."""
    kernels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Live bytes over the step, thinned out for display; every stretch keeps its highest point."""

    kinds: tuple[str, ...]
    phases: tuple[str, ...]
    moments: tuple[Moment, ...]
    num_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStep:
    """Two optimizer steps of one run on one GPU, replayed through the caching allocator."""

    allocated_bytes: int
    """What torch.cuda.max_memory_allocated would report."""
    reserved_bytes: int
    """What torch.cuda.max_memory_reserved would report."""
    device_bytes: int
    """What nvidia-smi would show: reserved and the CUDA context."""
    peak_phase: str
    peak_module: str
    peak_operation: str
    """Whose allocation reached the peak."""
    parts: Mapping[str, int]
    """The peak by kind [bytes]; the values sum to `allocated_bytes`. Read-only."""
    modules: tuple[Consumer, ...]
    """Who holds most at the peak, layers together, the largest first."""
    operations: tuple[Consumer, ...]
    """The same by the operation that made it; what was there before the step is left out."""
    phases: tuple[PhaseUse, ...]
    timeline: Timeline
    work: tuple[PhaseWork, ...]
    attention: Mapping[str, int]
    """How often each back end of scaled_dot_product_attention ran. Read-only."""
    num_layers: int
    num_trainable_params: int
    num_retries: int
    """How often the allocator gave its cache back because the card was full."""
    seconds: float
    """How long the simulation took [s]."""
    versions: Mapping[str, str]
    """Of the libraries whose code ran. Read-only."""
    assumptions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        found = cast("dict[str, Any]", writable(asdict(self)))
        found["timeline"]["moments"] = [moment._asdict() for moment in self.timeline.moments]
        for name in ("modules", "operations", "phases", "work"):
            found[name] = [row._asdict() for row in getattr(self, name)]
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> SimulatedStep:
        """What `as_dict` gave. Raises TypeError, KeyError or ValueError for anything else."""
        rows: dict[str, Any] = {
            "modules": Consumer, "operations": Consumer, "phases": PhaseUse, "work": PhaseWork,
        }  # fmt: skip
        values = dict(found)
        for name, record in rows.items():
            values[name] = tuple(record(**row) for row in found[name])
        for name in ("parts", "attention", "versions"):
            values[name] = read_only(found[name])
        timeline = dict(found["timeline"])
        moments = (
            Moment(**moment)._replace(live_bytes=tuple(moment["live_bytes"]))
            for moment in timeline["moments"]
        )
        values["timeline"] = Timeline(
            kinds=tuple(timeline["kinds"]),
            phases=tuple(timeline["phases"]),
            moments=tuple(moments),
            num_events=timeline["num_events"],
        )
        values["assumptions"] = tuple(found["assumptions"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation(Displayed):
    """The answer of `simulate`: an estimate whose memory was simulated, and how it came about."""

    estimate: Estimate
    """Its `method` is `simulated`, or `analytic` where the step cannot be simulated."""
    step: SimulatedStep | None
    """None: it cannot be simulated; `reason` says why."""
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The estimate's record, with the step under `simulation`."""
        step = self.step.as_dict() if self.step else None
        return {**self.estimate.as_dict(), "simulation": step, "not_simulated": self.reason or None}
