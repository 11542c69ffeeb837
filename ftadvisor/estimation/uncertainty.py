"""90 % intervals from the residuals of the fit, by kind of run.

A kind says what is known to decide how well the model does: which number is predicted, whether the
training program was measured, whether lengths vary, whether parameters are sharded. Each kind's
interval is the 5th and 95th percentile of measured over predicted among the published rows of that
kind; kinds with too few rows share their parent's. Fitted by `calibration`, never typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Interval(NamedTuple):
    """Multipliers of a prediction that bound 90 % of measurements."""

    low: float
    high: float
    rows: int
    """Measurements that the multipliers come from."""


def interval(table: Mapping[str, Interval], kind: tuple[str, ...]) -> Interval:
    """The interval of the closest kind: the last word is dropped until one is found.

    Raises KeyError when not even the first word is in the table.
    """
    while len(kind) > 1:
        found = table.get(" ".join(kind))
        if found is not None:
            return found
        kind = kind[:-1]
    return table[kind[0]]


def memory_kind(
    metric: str, *, trainer_measured: bool, lengths_vary: bool, sharded: bool, quantized: bool
) -> tuple[str, ...]:
    """The words of a memory prediction's kind, the most telling first."""
    return (
        metric,
        "measured-trainer" if trainer_measured else "other-trainer",
        "varying" if lengths_vary else "fixed",
        "sharded" if sharded else "whole",
        "quantized" if quantized else "unquantized",
    )
