"""The answer: what a run takes, with an interval on every figure and every assumption named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from ftadvisor.schema.display import Displayed
from ftadvisor.schema.read_only import writable

Verdict = Literal["fits", "tight", "does_not_fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Peak memory of one GPU [bytes]; `low` and `high` bound a 90 % interval."""

    allocated_bytes: int
    """What torch.cuda.max_memory_allocated reports."""
    allocated_low_bytes: int
    allocated_high_bytes: int
    reserved_bytes: int
    """What torch.cuda.max_memory_reserved reports: allocated and the allocator's cache."""
    reserved_low_bytes: int
    reserved_high_bytes: int
    device_bytes: int
    """What nvidia-smi shows: reserved, CUDA context and communication buffers."""
    device_low_bytes: int
    device_high_bytes: int
    parts: Mapping[str, int]
    """What the allocated peak consists of [bytes]; the values sum to `allocated_bytes`.
    Read-only."""
    peak_phase: str
    """The moment of the step at which the peak is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeEstimate:
    """How long the run takes."""

    tokens_per_second: float
    """All GPUs together, padding not counted [tokens/s]."""
    step_seconds: float
    """One optimizer step [s]."""
    total_seconds: float
    total_low_seconds: float
    total_high_seconds: float
    mfu: float
    """Model FLOPs utilisation, 0 to 1; recomputation is not counted."""
    energy_kwh: float | None = None
    """Upper bound from the power limit [kWh]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """What the run costs [USD]."""

    total_usd: float
    total_low_usd: float
    total_high_usd: float
    usd_per_gpu_hour: float
    provider: str
    source: str
    spot_total_usd: float | None
    """The same at the provider's spot price, where it has one."""
    price_date: str
    """The day of the price, or what is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Displayed):
    """One technique on one model and GPU."""

    model: str
    num_params: int
    num_trainable_params: int
    gpu: str | None
    """None: no GPU was asked for."""
    num_gpus: int
    gpu_usable_bytes: int | None
    """What torch can use of one GPU [bytes]."""
    trainer: str
    technique: str
    objective: str
    settings: Mapping[str, Any]
    """Every setting by its name, resolved. Read-only."""
    method: Literal["analytic", "simulated"] = "analytic"
    verdict: Verdict | None
    """None without a GPU."""
    memory: MemoryEstimate
    time: TimeEstimate | None
    cost: CostEstimate | None
    assumptions: tuple[str, ...]
    """What was assumed, one sentence each."""
    fits_on: tuple[str, ...] = ()
    """Without a GPU: the catalogue's GPUs on which it fits."""

    def as_dict(self) -> dict[str, Any]:
        """The record as `ftadvisor estimate --json` prints it: plain dictionaries and numbers."""
        return cast("dict[str, Any]", writable(asdict(self)))
