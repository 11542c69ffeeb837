"""The only module that converts units.

Inside the package everything is in bytes, seconds, FLOPs, tokens and USD. Data files and people use
larger units; the factors and the way numbers are printed stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

KIB = 1024
MIB = 1024**2
GIB = 1024**3
"""Bytes in a GiB: what torch, nvidia-smi and this package count memory in."""
GB = 1e9
"""Bytes in a GB: what datasheets count bandwidth in, and a few papers memory."""
TERA = 1e12
"""FLOP/s in a TFLOP/s."""
MILLISECOND = 1e-3
MICROSECOND = 1e-6
MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0
JOULES_PER_KWH = 1000 * HOUR


def format_bytes(num_bytes: float) -> str:
    """Print bytes as GiB: `23.5 GiB`, below 10 GiB with two decimals: `4.25 GiB`."""
    gib = num_bytes / GIB
    return f"{gib:.2f} GiB" if round(abs(gib), 2) < 10 else f"{gib:,.1f} GiB"


def format_duration(seconds: float, beside: float | None = None) -> str:
    """Print seconds in the unit that reads best: `85 ms`, `42.0 s`, `12.5 min`, `3.1 days`.

    `beside`: the duration whose unit it gets instead, as the ends of an interval get its middle's.
    """
    size = abs(seconds if beside is None else beside)
    if size < 0.9995:  # from here on three digits would print 1e+03
        return f"{seconds / MILLISECOND:.3g} ms"
    if size < 2 * MINUTE:
        return f"{seconds:.1f} s"
    if size < 2 * HOUR:
        return f"{seconds / MINUTE:.1f} min"
    if size < 2 * DAY:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / DAY:,.1f} days"


def format_usd(usd: float) -> str:
    """Print USD: `$0.42`, from 1000 on without cents: `$1,234`."""
    sign = "-" if usd < 0 else ""
    size = abs(usd)
    return f"{sign}${size:.2f}" if round(size, 2) < 1000 else f"{sign}${size:,.0f}"


def format_count(count: float) -> str:
    """Print parameters or tokens, in powers of ten: `512`, `52.0 k`, `4.19 M`, `6.74 B`."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999.6 of the smaller unit would print as 1e+03 of it.
        if abs(count) >= 0.9995 * factor:
            return f"{_three_digits(count / factor)} {suffix}"
    return f"{count:.0f}" if count == round(count) else f"{count:.3g}"


def format_share(fraction: float) -> str:
    """Print a fraction as a percentage: `0.5 %`, `12 %`, from 10 % on without decimals."""
    percent = 100 * fraction
    return f"{percent:.1f} %" if round(abs(percent), 1) < 10 else f"{percent:.0f} %"


def format_range(low: float, high: float, form: Callable[[float], str]) -> str:
    """Print an interval, naming a unit that both ends share once: `10.2–13.9 h`."""
    left, right = form(low), form(high)
    number, _, unit = left.rpartition(" ")
    if number and right.endswith(f" {unit}"):
        left = number
    return f"{left}–{right}"


def _three_digits(value: float) -> str:
    size = abs(value)
    decimals = 2 if round(size, 2) < 10 else 1 if round(size, 1) < 100 else 0
    return f"{value:.{decimals}f}"
