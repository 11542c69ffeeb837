"""What of a GPU's datasheet a run can use: rates for its dtypes, and the fitted shares of them."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.schema.coefficients import TimeCoefficients
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer


class Rates(NamedTuple):
    """One GPU's, or several GPUs' as arrays."""

    peak: Number
    """Dense matrix rate in the dtype that the run computes in, fp8 aside [FLOP/s]."""
    linear_peak: Number
    """The same for the layers' matrices, which fp8 serves [FLOP/s]."""
    efficiency: Number
    """Share of the matrix rate."""
    bandwidth: Number
    """Achieved, of the GPU's memory [bytes/s]."""
    cache: Number
    """Of its L2 cache; 0: unknown, and nothing is found there [bytes]."""
    issue: Number
    """Clock cycles of all multiprocessors together [1/s]."""
    link: Number
    """Achieved in collective operations inside a machine [bytes/s]."""
    network: Number
    """The same between machines [bytes/s]."""
    host: Number
    """Achieved to the CPU's memory [bytes/s]."""
    host_slowness: Number
    """What the CPU takes to launch a kernel over what a usual one takes."""
    fused_attention: Number = 1.0
    """Share of the matrix rate that a fused attention's instructions have."""


SYNCHRONOUS_SHARE = 0.629
"""Of Hopper's matrix rate, what instructions of Ampere's kind (mma.sync) reach of it on average.
Matrix products there are issued to whole warp groups; flash attention 2, SDPA's too, was written
before that, and so gets a smaller share of an H100 (35 %) than of an A100 (50 to 73 %).
Ref: Luo et al. 2024, arXiv 2402.13499, section IV; Shah et al. 2024, arXiv 2407.08608; Dao 2023."""
HALF_OVER_FP32 = 16.0
"""Half precision's matrix rate over fp32's vector rate where the latter is not published (Gaudi):
A100's (312 over 19.5 TFLOP/s) and H100's (989 over 67)."""


def rates(gpu: Gpu, settings: Settings, trainer: Trainer, c: TimeCoefficients) -> Rates:
    """The rates of one GPU for a run."""
    peak = peak_flops(gpu, settings, trainer)
    link = c.link_share.get(gpu.link) or c.link_share["default"]
    return Rates(
        peak=peak,
        # fp8 serves the layers' matrices; attention stays in half precision.
        linear_peak=gpu.flops_per_second.get("fp8", peak) if settings.fp8 else peak,
        efficiency=efficiency(gpu, c),
        bandwidth=gpu.memory_bandwidth_bytes_per_second * c.bandwidth_share,
        cache=gpu.l2_cache_bytes or 0,
        issue=issue_rate(gpu),
        link=gpu.link_bytes_per_second * link,
        network=gpu.link_bytes_per_second * c.link_share["between-machines"],
        host=gpu.host_link_bytes_per_second * c.link_share["default"],
        host_slowness=1.0,
        fused_attention=SYNCHRONOUS_SHARE if gpu.arch == "hopper" else 1.0,
    )


def peak_flops(gpu: Gpu, settings: Settings, trainer: Trainer) -> float:
    """Dense matrix rate in the dtype that the run computes in, fp8 aside [FLOP/s]."""
    dtype = settings.autocast if settings.autocast != "none" else settings.weights_dtype
    found = gpu.flops_per_second
    if dtype == "fp32":
        wide = found.get("tf32") if trainer.tf32 else None
        return wide or found.get("fp32", min(found.values()))
    return found.get(dtype) or found.get("fp16") or found.get("fp32") or min(found.values())


def efficiency(gpu: Gpu, c: TimeCoefficients) -> float:
    """Share of the matrix rate on this GPU: its own, its architecture's, or the default."""
    table = c.efficiency
    return table.get(gpu.id) or table.get(gpu.arch) or table["default"]


def issue_rate(gpu: Gpu) -> float:
    """Clock cycles of all multiprocessors together in a second.

    Unpacking 4-bit weights is bound by instructions (a table lookup, shifts and a multiplication
    for each), not by the few bytes that it reads. An fp32 rate is two FLOPs per lane and cycle;
    lanes of a multiprocessor by compute capability: CUDA C++ Programming Guide, arithmetic
    instructions (64 for 6.0, 7.x and 8.0, 128 from 8.6 on; other vendors' compute units have 64).
    """
    capability = tuple(int(part) for part in gpu.compute_capability.split(".") if part)
    lanes = 128 if capability >= (8, 6) or capability[:2] == (6, 1) else 64
    wide = gpu.flops_per_second.get("fp32") or peak_half(gpu) / HALF_OVER_FP32
    return wide / (2 * lanes)


def peak_half(gpu: Gpu) -> float:
    """Dense matrix rate in half precision, which every GPU has [FLOP/s]."""
    found = gpu.flops_per_second
    return found.get("bf16") or found.get("fp16") or min(found.values())
