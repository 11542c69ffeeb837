"""Fitted numbers: `data/coefficients/` to records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ftadvisor.schema.coefficients import Interval, MemoryCoefficients, TimeCoefficients
from ftadvisor.sources.data_files import read_json


@cache
def memory_coefficients() -> MemoryCoefficients:
    """From allocated to reserved to device memory, as fitted."""
    return MemoryCoefficients(**_file("memory")["coefficients"])


@cache
def memory_intervals() -> Mapping[str, Interval]:
    """90 % intervals of memory figures by kind of run."""
    return _intervals("memory")


@cache
def time_coefficients() -> TimeCoefficients:
    """Shares of datasheet rates, as fitted."""
    return TimeCoefficients(**_file("time")["coefficients"])


@cache
def time_intervals() -> Mapping[str, Interval]:
    """90 % intervals of times by kind of run."""
    return _intervals("time")


def left_out(what: str) -> dict[str, dict[str, Any]]:
    """Errors of `memory` or `time` by source, each predicted by a fit without it."""
    return _file(what)["left_out"]


@cache
def _file(what: str) -> dict[str, Any]:
    return read_json(f"coefficients/{what}.json")


def _intervals(what: str) -> dict[str, Interval]:
    return {kind: Interval(**row) for kind, row in _file(what)["intervals"].items()}
