"""Fitted numbers: `data/coefficients/*.json` as records."""

from __future__ import annotations

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
    same_length_ratio: float
    """Typical over longest length above which all batches count as alike."""
    context_bytes: float
    """CUDA context and modules on one device [bytes]."""
    communication_bytes: float
    """NCCL's buffers and second context, several GPUs [bytes]."""


class Interval(NamedTuple):
    """Multipliers of a prediction that bound 90 % of measurements."""

    low: float
    high: float
    rows: int
    """Measurements that the multipliers come from."""
