"""90 % intervals from the residuals of the fit, by kind of run.

A kind says what is known to decide how well the model does: which number is predicted, whether the
training program was measured, whether lengths vary, whether parameters are sharded. Each kind's
interval is the 5th and 95th percentile of measured over predicted among the published rows of that
kind; kinds with too few rows share their parent's. Fitted by `calibration`, never typed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ftadvisor.estimation.numerics import SHARDED
from ftadvisor.schema.coefficients import Interval, Intervals
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer

Kind = tuple[str, tuple[str, ...]]
"""Which trainer ("other-trainer" where it was never measured, "stand-in" where its loop was not
even read), and further words."""
OTHER, STAND_IN = "other-trainer", "stand-in"
CACHED = ("reserved", "device")
"""Metrics that hold the allocator's cache."""
_WIDER = {STAND_IN: OTHER, OTHER: OTHER}


def interval(table: Mapping[str, Interval], metric: str, kind: Kind) -> Interval:
    """The interval of the closest kind in the table.

    Words are dropped from the end; then the trainer's name is, with all words again. A trainer's
    own rows speak only of runs like them: what it was never measured with, sharding, or the
    allocator's cache of lengths that vary, is as uncertain as with others.
    Raises KeyError when not even the metric is in the table.
    """
    if not isinstance(table, Intervals):
        return _closest(table, metric, kind)
    found = table.given.get((metric, kind))
    if found is None:
        found = table.given[metric, kind] = _closest(table, metric, kind)
    return found


def _closest(table: Mapping[str, Interval], metric: str, kind: Kind) -> Interval:
    trainer, words = kind
    own = words[-1] != "sharded" or any(
        key.startswith(f"{metric} {trainer} ") and key.endswith(" sharded") for key in table
    )
    least = 1 if metric in CACHED else 0
    ends = [(trainer, end) for end in range(len(words), least - 1, -1)] if own else []
    wider = _WIDER.get(trainer, "measured-trainer")
    ends += [(wider, end) for end in range(len(words), -1, -1)]
    for name, end in ends:
        found = table.get(" ".join((metric, name, *words[:end])))
        if found is not None:
            return found
    return table[metric]


def kinds_of(metric: str, kind: Kind) -> Iterator[str]:
    """All names in a table that a measurement of this kind is evidence for."""
    trainer, words = kind
    yield metric
    for name in (trainer, "measured-trainer") if trainer not in _WIDER else ():
        for end in range(len(words) + 1):
            yield " ".join((metric, name, *words[:end]))


def memory_kind(settings: Settings, trainer: Trainer) -> Kind:
    """The kind of a memory prediction, the most telling word first."""
    varying = not settings.packing and not trainer.empties_cache and _any(settings.typical_length)
    name = trainer.id if trainer.measured else STAND_IN if trainer.stand_in else OTHER
    return name, (
        "varying" if varying else "fixed",
        "quantized" if settings.quantization != "none" else "unquantized",
        "sharded" if settings.strategy in SHARDED else "whole",
    )


def _any(value: Number) -> bool:
    return value > 0 if isinstance(value, int | float) else bool((value > 0).any())
