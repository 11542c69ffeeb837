"""Fitted numbers: `data/coefficients/*.json` as records."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCoefficients:
    """From allocated to reserved to device memory."""

    working_fraction: float
    """Of a step's activations and temporaries, lost to rounding and splitting."""
    logits_fraction: float
    """Of the logits' copies, cached and free when all batches are alike."""
    emptied_logits_fraction: float
    """The same where the program empties the cache after each step."""
    variable_length_constant: float
    variable_length_slope: float
    """Reserved over allocated logits = constant + slope x typical length / longest length."""
    context_bytes: float
    """CUDA context and modules on one device [bytes]."""
    communication_bytes: float
    """NCCL's buffers and second context, several GPUs [bytes]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCoefficients:
    """What of a processor's measured rates a training step gets."""

    rate_share: float
    """Of the best product's rate."""
    bandwidth_share: float
    """Of a large copy's."""
    host_slowness: float
    """What Python takes for an operation over what it takes to launch one on a GPU."""
    spread: float
    """Of logarithms of these shares, on a processor of which no step was measured."""


class LongestBatch(NamedTuple):
    """The longest batch of a source's runs."""

    tokens: int
    fitted_on: str
    """The one row whose memory decides it."""


class Interval(NamedTuple):
    """Multipliers of a prediction that bound 90 % of measurements."""

    low: float
    high: float
    rows: int
    """Measurements that the multipliers come from."""

    def outermost(self, other: Interval) -> Interval:
        """The wider of both at each end."""
        return self._replace(low=min(self.low, other.low), high=max(self.high, other.high))


class Intervals(dict[str, Interval]):
    """Intervals by kind of run; remembers which of them a kind was given."""

    __slots__ = ("given",)

    def __init__(self, rows: Mapping[str, Interval]) -> None:
        super().__init__(rows)
        self.given: dict[Hashable, Interval] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCoefficients:
    """How much of a datasheet a step gets, by what it does and where it runs."""

    efficiency: dict[str, float]
    """Share of the dense matrix rate, by GPU id, architecture, or "default"."""
    half_tokens_per_teraflops: float
    """Tokens of a micro-batch at which half of that share is reached, per TFLOP/s of the dense
    rate: the faster the GPU, the more tokens hide what a kernel takes however small it is."""
    half_width: float
    """Width of the stream of which a product gets half of that share: a tile's loop over its inner
    dimension begins and ends, however long it is."""
    bandwidth_share: float
    attention_share: dict[str, float]
    """Attention's rate over the matrix rate, by implementation."""
    elementwise_passes: float
    """Bytes that a layer's elementwise kernels move over those that its operations name."""
    score_passes: float
    """Times that eager attention reads or writes its scores in one pass over a layer."""
    dequantized_per_cycle: dict[str, float]
    """Weights that a multiprocessor unpacks in a clock cycle, by quantization."""
    launch_seconds: dict[str, float]
    """Host time of launching one kernel, by trainer or "default" [s]."""
    adapter_passes: float
    """Bytes of its tokens that an adapter moves over those that its operations name."""
    matrix_passes: float
    """As adapter_passes, for what is of a weight's size."""
    kernel_seconds: float
    """Least time on the GPU of a kernel that an adapter adds, however little it moves [s]."""
    overlap_power: float
    """GPU and host times add as (a^p + b^p)^(1/p)."""
    link_share: dict[str, float]
    """Share of the link's rate in collective operations, by link, "default", or "between-machines":
    the share that a network between machines of eight leaves of the link inside them."""
    exposed: float
    """Share of the shorter of computation and communication that is not hidden."""
    gather_seconds: float
    """Host time of FSDP's gathering or scattering one layer: hooks, buffers, waits [s]."""
    step_seconds: float
    """Host time of one micro-batch outside the layers [s]."""
