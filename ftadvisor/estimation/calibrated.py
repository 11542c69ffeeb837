"""The shipped coefficients with a calibration's factors on them, and a CPU's own physics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ftadvisor.estimation.numerics import HALF_BYTES
from ftadvisor.estimation.phases import NO_CUDA
from ftadvisor.estimation.rates import efficiency
from ftadvisor.schema.calibration import Adjusted, Factors
from ftadvisor.schema.coefficients import (
    CpuCoefficients,
    Interval,
    MemoryCoefficients,
    TimeCoefficients,
)
from ftadvisor.schema.hardware import Gpu
from ftadvisor.units import TERA

CPU = "cpu"
OF_A_PROCESSOR = {"usable_bytes", "copy_bytes_per_second", "flops_per_second"}
"""What a probed machine says of its processor."""


class Fitted(NamedTuple):
    """The numbers of one estimate."""

    memory: MemoryCoefficients
    memory_intervals: Mapping[str, Interval]
    time: TimeCoefficients
    time_intervals: Mapping[str, Interval]
    host_slowness: float = 1.0
    """Of the machine's CPU, where it was measured."""
    said: str = ""
    """What they rest on; empty: on what is shipped."""


def unseen(spread: float) -> Interval:
    """The 90 % interval of a time of which no measurement tells, from a spread of logarithms."""
    half = math.exp(1.645 * spread)
    return Interval(1 / half, half, 0)


def calibrated_time(c: TimeCoefficients, gpu: Gpu, factors: Factors) -> TimeCoefficients:
    """Coefficients whose shares are moved for one GPU; the host's factor is `host_slowness`'s."""
    share = efficiency(gpu, c) * factors.rate
    return replace(
        c,
        efficiency={**c.efficiency, gpu.id: share},
        bandwidth_share=c.bandwidth_share * factors.bandwidth,
    )


def linked_time(c: TimeCoefficients, gpu: Gpu, link: float | None) -> TimeCoefficients:
    """Coefficients by which GPUs of one machine exchange `link` [bytes/s]; None: not measured."""
    if link is None:
        return c
    share = link / gpu.link_bytes_per_second
    return replace(c, link_share={**c.link_share, gpu.link: share})


def calibrated_memory(c: MemoryCoefficients, adjusted: Adjusted) -> MemoryCoefficients:
    """Coefficients of the ladder from allocated to device memory."""
    cache = adjusted.factors.cache
    context = adjusted.context_bytes
    return replace(
        c,
        working_fraction=c.working_fraction * cache,
        logits_fraction=c.logits_fraction * cache,
        emptied_logits_fraction=c.emptied_logits_fraction * cache,
        context_bytes=c.context_bytes if context is None else context,
    )


def cpu_time(c: TimeCoefficients, cpu: Gpu, shares: CpuCoefficients) -> TimeCoefficients:
    """Of a processor whose rates were measured on products and copies.

    It launches nothing and waits for nothing: Python's share of each operation, which a GPU's host
    has too, is added to the work in place of overlapping it. A product reads its weights from
    memory, so that with h = rate x bytes of a weight / 2 / bandwidth tokens half of its time is
    that. Elementwise operations move what they move on a GPU, attention reaches the same share.
    """
    return replace(
        c,
        efficiency={"default": shares.rate_share},
        half_tokens_per_teraflops=TERA * HALF_BYTES / 2 / cpu.memory_bandwidth_bytes_per_second,
        half_width=0.0,
        bandwidth_share=shares.bandwidth_share,
        launch_seconds={k: v * shares.host_slowness for k, v in c.launch_seconds.items()},
        step_seconds=c.step_seconds * shares.host_slowness,
        kernel_seconds=0.0,
        overlap_power=1.0,
    )


def cpu_memory(c: MemoryCoefficients) -> MemoryCoefficients:
    """malloc gives back what is freed, and no context is taken."""
    return replace(
        c,
        working_fraction=0.0,
        logits_fraction=0.0,
        emptied_logits_fraction=0.0,
        variable_length_constant=1.0,
        variable_length_slope=0.0,
        context_bytes=0.0,
        communication_bytes=0.0,
    )


def is_cpu(gpu: Gpu | None) -> bool:
    """Whether it is a processor."""
    return gpu is not None and gpu.arch == CPU


def cpu_of(machine: Mapping[str, Any]) -> Gpu:
    """A probed machine's processor as the estimate sees hardware: its rates are those achieved."""
    memory = int(machine["usable_bytes"])
    bandwidth = float(machine["copy_bytes_per_second"])
    return Gpu(
        id=CPU,
        name=str(machine.get("name", "CPU")),
        vendor="cpu",
        arch="cpu",
        kind="unified",
        compute_capability=NO_CUDA,
        memory_bytes=memory,
        usable_bytes=memory,
        usable_assumed=False,
        memory_bandwidth_bytes_per_second=bandwidth,
        l2_cache_bytes=None,
        multiprocessors=None,
        resident_threads=None,
        flops_per_second=dict(machine["flops_per_second"]),
        link="pcie",
        link_bytes_per_second=bandwidth,
        host_link_bytes_per_second=bandwidth,
        power_watts=None,
    )
