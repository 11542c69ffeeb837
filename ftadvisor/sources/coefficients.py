"""Fitted numbers: `data/coefficients/` to records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from ftadvisor.schema.coefficients import Interval, MemoryCoefficients
from ftadvisor.sources.data_files import read_json


@cache
def memory_coefficients() -> MemoryCoefficients:
    """From allocated to reserved to device memory, as fitted."""
    return MemoryCoefficients(**read_json("coefficients/memory.json")["ladder"])


@cache
def memory_intervals() -> Mapping[str, Interval]:
    """90 % intervals of memory figures by kind of run."""
    rows = read_json("coefficients/memory.json")["intervals"]
    return {kind: Interval(**row) for kind, row in rows.items()}
