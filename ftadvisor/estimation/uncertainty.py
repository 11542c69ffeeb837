"""90 % intervals from the residuals of the fit, by kind of run.

A kind says what is known to decide how well the model does: which number is predicted, whether the
training program was measured, whether lengths vary, whether parameters are sharded. Each kind's
interval is the 5th and 95th percentile of measured over predicted among the published rows of that
kind; kinds with too few rows share their parent's. Fitted by `calibration`, never typed.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftadvisor.estimation.numerics import SHARDED
from ftadvisor.schema.coefficients import Interval
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer


def interval(table: Mapping[str, Interval], kind: tuple[str, ...]) -> Interval:
    """The interval of the closest kind: the last word is dropped until one is found.

    Raises KeyError when not even the first word is in the table.
    """
    while len(kind) > 1:
        found = table.get(" ".join(kind))
        if found is not None:
            return found
        kind = kind[:-1]
    return table[" ".join(kind)]


def memory_kind(settings: Settings, trainer: Trainer) -> tuple[str, ...]:
    """The words of a memory prediction's kind after its metric, the most telling first."""
    varying = not settings.packing and not trainer.empties_cache and _any(settings.typical_length)
    return (
        "measured-trainer" if trainer.measured else "other-trainer",
        "varying" if varying else "fixed",
        "sharded" if settings.strategy in SHARDED else "whole",
        "quantized" if settings.quantization != "none" else "unquantized",
    )


def _any(value: Number) -> bool:
    return value > 0 if isinstance(value, int | float) else bool((value > 0).any())
