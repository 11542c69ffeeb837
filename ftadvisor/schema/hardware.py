"""A GPU and the price of its hour, as the estimator sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Vendor = Literal["nvidia", "amd", "intel", "apple", "cpu"]
"""cpu: a processor that was probed; the catalogue has none."""
Arch = Literal[
    "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell",
    "cdna1", "cdna2", "cdna3", "cdna4", "rdna3", "rdna4", "xe-hpg", "xe-hpc", "xe2", "gaudi",
    "apple", "cpu",
]  # fmt: skip
"""GPUs of one architecture share efficiencies."""
GpuKind = Literal["consumer", "laptop", "workstation", "datacenter", "unified"]
"""unified: memory shared with the CPU."""
Link = Literal["nvlink", "xgmi", "pcie", "ethernet", "thunderbolt"]
"""How several GPUs are joined in one machine; thunderbolt for Apple's, one to a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU type; rates are dense, with fp32 accumulation."""

    id: str
    name: str
    """As its vendor writes it."""
    vendor: Vendor
    arch: Arch
    kind: GpuKind
    compute_capability: str
    """NVIDIA's, `8.6`; empty for other vendors."""
    memory_bytes: int
    """Nominal [bytes]."""
    usable_bytes: int
    """What torch reports as the card's total [bytes]."""
    usable_assumed: bool
    """No source has torch's figure: a stated ratio of the nominal one."""
    memory_bandwidth_bytes_per_second: float
    l2_cache_bytes: float | None
    """None: unknown, or apart for each die [bytes]."""
    multiprocessors: int | None
    """None: unknown, or another vendor's."""
    resident_threads: int | None
    """At most, on one multiprocessor; None: another vendor's."""
    flops_per_second: dict[str, float]
    """Dense matrix rate by compute dtype [FLOP/s]: fp32 (tf32 not used), tf32, fp16, bf16, fp8,
    fp4. A dtype that is missing does not exist on this GPU."""
    link: Link
    link_bytes_per_second: float
    """One direction, one GPU [bytes/s]."""
    host_link_bytes_per_second: float
    """To the CPU's memory, one direction [bytes/s]."""
    power_watts: float | None

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bf16 matrices."""
        return "bf16" in self.flops_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One provider's price of one GPU-hour on a stated day."""

    gpu: str
    provider: str
    usd_per_gpu_hour: float
    """On demand."""
    spot_usd_per_gpu_hour: float | None
    as_of: str
    """The day, or what is known of it."""
    source: str
    region: str | None = None
    instance: str | None = None
    gpus_per_instance: int = 1
    stale: bool = False
    """Older than `STALE_AFTER_DAYS` on the day of the question, or of unknown day."""
