"""What a probe measured, and what follows from it for the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, cast

from ftadvisor.schema.read_only import writable


class Slice(NamedTuple):
    """A few steps of a model's first layers."""

    layers: int
    micro_batch_size: int
    max_length: int
    status: Literal["done", "oom"]
    step_seconds: float | None = None
    """Median of the timed steps, one optimizer step each; None: out of memory."""
    cpu_seconds: float | None = None
    """The same of the process's own CPU time, all its threads together."""
    spread: float | None = None
    """Standard deviation of the timed steps over their median."""
    num_steps: int = 0
    peaks: Mapping[str, int] = {}
    """The fullest moment of each part of a step [bytes]."""
    reserved_bytes: int | None = None
    """By the allocator of a GPU; None: a CPU."""
    device_bytes: int | None = None

    @property
    def allocated_bytes(self) -> int:
        """The fullest moment of a step [bytes]."""
        return max(self.peaks.values(), default=0)


class Extrapolated(NamedTuple):
    """The whole model, from its slices."""

    layers: int
    step_seconds: float | None
    """None: fewer layers took longer than more, and nothing follows from that."""
    cpu_seconds: float
    layer_seconds: float | None
    """What a layer adds; None: the whole model was the only slice, or fewer layers took longer."""
    allocated_bytes: int
    reserved_bytes: int | None
    device_bytes: int | None
    peak_phase: str
    """The part of a step that is fullest at this depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A plan's probe: slices, and the whole run that they promise."""

    machine: str
    slices: tuple[Slice, ...]
    whole: Extrapolated
    predicted: Mapping[str, float]
    """The estimate before the probe, by the names of its record."""
    calibrated: Mapping[str, float]
    """The same with the calibration that the probe's record is part of."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        found = cast("dict[str, Any]", writable(asdict(self)))
        found["slices"] = [{**part._asdict(), "peaks": dict(part.peaks)} for part in self.slices]
        found["whole"] = self.whole._asdict()
        return found
