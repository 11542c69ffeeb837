"""Peak memory of a run with its interval: phases, ladder and residuals put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ftadvisor.estimation.arithmetic import largest
from ftadvisor.estimation.ladder import ladder, needed_bytes
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.numerics import SHARDED
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.estimation.uncertainty import Interval, interval, memory_kind
from ftadvisor.schema.coefficients import MemoryCoefficients
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer


class Bounded(NamedTuple):
    """A figure and the ends of its 90 % interval."""

    value: Number
    low: Number
    high: Number


class MemoryPrediction(NamedTuple):
    """Peak memory of one GPU [bytes]."""

    allocated: Bounded
    reserved: Bounded
    device: Bounded
    needed: Bounded
    """The least device memory that the run gets by with: what a verdict compares with the card."""
    phases: dict[str, Phase]


def lengths_vary(settings: Settings, trainer: Trainer) -> bool:
    """Whether batches of different padded lengths fill the allocator's cache."""
    if settings.packing or trainer.empties_cache:
        return False
    return bool(largest(settings.typical_length, 0) > 0)


def predict_memory(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    coefficients: MemoryCoefficients,
    intervals: Mapping[str, Interval],
    usable_bytes: float | None,
) -> MemoryPrediction:
    """Allocated, reserved and device memory at the peak, each with its interval [bytes]."""
    phases = step_phases(model, settings, trainer, adapter)
    allocated = largest(*(phase.total for phase in phases.values()))
    above = ladder(phases, settings, trainer, coefficients, usable_bytes)
    needed = needed_bytes(phases, settings, coefficients)

    def bounded(value: Number, metric: str) -> Bounded:
        kind = memory_kind(
            metric,
            trainer_measured=trainer.measured,
            lengths_vary=lengths_vary(settings, trainer),
            sharded=settings.strategy in SHARDED,
            quantized=settings.quantization != "none",
        )
        found = interval(intervals, kind)
        return Bounded(value, value * found.low, value * found.high)

    return MemoryPrediction(
        allocated=bounded(allocated, "allocated"),
        reserved=bounded(above.reserved, "reserved"),
        device=bounded(above.device, "device"),
        needed=bounded(needed, "allocated"),
        phases=phases,
    )
