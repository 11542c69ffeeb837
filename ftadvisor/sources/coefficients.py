"""Fitted numbers: `data/coefficients/` to records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from ftadvisor.errors import DataFileError
from ftadvisor.schema.coefficients import (
    CpuCoefficients,
    Interval,
    Intervals,
    LongestBatch,
    MemoryCoefficients,
    TimeCoefficients,
)
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import (
    NULL,
    POSITIVE,
    SHARE,
    TEXT,
    any_of,
    check_row,
    number,
    record_kinds,
    whole,
)

_ERRORS = {
    "rows": whole(), "median_abs_error": any_of(number(), NULL),
    "p90_abs_error": any_of(number(), NULL), "coverage90": any_of(SHARE, NULL),
}  # fmt: skip
T = TypeVar("T")

_WRITE = "what python -m ftadvisor.calibration writes"
_DIVISORS = ("bandwidth_share", "overlap_power")
"""Coefficients that something is divided by."""
_ENTRIES = {"link_share": ("default", "between-machines")}
"""What a table must have, besides what it has by GPU, trainer or kernel: else `default`."""
_MEMORY = ("allocated", "reserved", "device", "needed")
_WIDEST = {"memory": _MEMORY, "simulated": _MEMORY, "time": ("time",), "cpu": ("memory",)}
"""Intervals that stand for every kind of run without one of its own."""
_INTERVAL = {"low": POSITIVE, "high": POSITIVE, "rows": whole(1)}


@cache
def memory_coefficients() -> MemoryCoefficients:
    """From allocated to reserved to device memory, as fitted."""
    return _record("memory", MemoryCoefficients)


@cache
def memory_intervals() -> Mapping[str, Interval]:
    """90 % intervals of memory figures by kind of run."""
    return _intervals("memory")


@cache
def time_coefficients() -> TimeCoefficients:
    """Shares of datasheet rates, as fitted."""
    return _record("time", TimeCoefficients)


@cache
def time_intervals() -> Mapping[str, Interval]:
    """90 % intervals of times by kind of run."""
    return _intervals("time")


@cache
def cpu_coefficients() -> CpuCoefficients:
    """Shares of a processor's measured rates, as fitted."""
    return _record("cpu", CpuCoefficients)


@cache
def cpu_memory_interval() -> Interval:
    """The 90 % interval of what a processor's step allocates."""
    return _intervals("cpu")["memory"]


@cache
def simulated_intervals() -> Mapping[str, Interval]:
    """The same of memory figures that were simulated."""
    return _intervals("simulated")


@cache
def checked_trainers() -> frozenset[str]:
    """Programs whose published rows the intervals of simulated figures were held to."""
    found = _part("simulated", "checked_trainers")
    for trainer, row in found.items():
        check_row(_name("simulated"), trainer, row, {"rows": whole(1), "inside": SHARE})
    return frozenset(found)


@cache
def longest_batches() -> Mapping[str, LongestBatch]:
    """Longest batches that no source states, as the simulation has them, by the rows' source."""
    found = _part("simulated", "longest_batches")
    for source, row in found.items():
        check_row(_name("simulated"), source, row, {"tokens": whole(1), "fitted_on": TEXT})
    return {source: LongestBatch(**row) for source, row in found.items()}


def left_out(what: str) -> dict[str, dict[str, Any]]:
    """Errors of `memory` or `time` by source, each predicted by a fit without it."""
    found = _part(what, "left_out")
    for source, row in found.items():
        check_row(_name(what), source, row, _ERRORS)
    return found


def check_coefficients() -> None:
    """Raise DataFileError at the first number of either file that cannot be right."""
    memory_coefficients()
    time_coefficients()
    cpu_coefficients()
    cpu_memory_interval()
    simulated_intervals()
    longest_batches()
    checked_trainers()
    for what in ("memory", "time", "cpu"):
        _intervals(what)
        left_out(what)


@cache
def _part(what: str, key: str) -> dict[str, Any]:
    content = read_json(_name(what))
    parts = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    found: Any = parts.get(key)
    if not isinstance(found, dict) or not found:
        raise DataFileError(_name(what), None, key, "is no object with entries", _WRITE)
    return cast("dict[str, Any]", found)


def _record(what: str, record: type[T]) -> T:
    file, kinds = _name(what), record_kinds(record)
    found = _part(what, "coefficients")
    check_row(file, "coefficients", found, kinds | {n: POSITIVE for n in _DIVISORS if n in kinds})
    for name, entries in found.items():
        if isinstance(entries, dict):
            needed = dict.fromkeys(_ENTRIES.get(name, ("default",)), POSITIVE)
            others = dict.fromkeys(cast("dict[str, Any]", entries), POSITIVE)
            check_row(file, "coefficients", entries, needed, others, inside=name)
    return record(**found)


def _intervals(what: str) -> Intervals:
    found: dict[str, Interval] = {}
    for kind, row in _part(what, "intervals").items():
        check_row(_name(what), kind, row, _INTERVAL)
        if row["low"] > row["high"]:
            problem = f"is {row['low']}, more than high ({row['high']})"
            raise DataFileError(_name(what), kind, "low", problem, "the lower end")
        found[kind] = Interval(**row)
    for kind in _WIDEST[what]:
        if kind not in found:
            raise DataFileError(_name(what), kind, None, "is missing", _WRITE)
    return Intervals(found)


def _name(what: str) -> str:
    return f"coefficients/{what}.json"
