"""Bars: how a peak's parts are drawn, and which sign and colour each part has everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ftadvisor.render.document import Parts
from ftadvisor.units import GIB


class Look(NamedTuple):
    """How a part is drawn: in Unicode, in ASCII, in a terminal's colours, in HTML."""

    sign: str
    letter: str
    colour: str
    hex: str


OTHER = "other"
CACHE = "cache and context"
LOOKS = {
    "weights": Look("█", "W", "blue", "#4c78a8"),
    "gradients": Look("▓", "G", "magenta", "#b279a2"),
    "optimizer": Look("▒", "O", "cyan", "#72b7b2"),
    "activations": Look("░", "A", "yellow", "#eeca3b"),
    "logits": Look("▚", "L", "red", "#e45756"),
    OTHER: Look("▪", "x", "white", "#9d755d"),
    CACHE: Look("·", ".", "bright_black", "#bab0ac"),
}
"""In the order of the bar. What has no look of its own counts as other."""
LIMIT_SIGN, LIMIT_LETTER = "│", "|"
BEYOND_SIGN, BEYOND_LETTER = "▶", ">"


def grouped(parts: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The parts by LOOKS' names and in its order, without those that are zero."""
    sums = dict.fromkeys(LOOKS, 0.0)
    for name, size in parts:
        sums[name if name in LOOKS else OTHER] += size
    return tuple((name, size) for name, size in sums.items() if size > 0)


def runs(cell: Parts, width: int) -> list[tuple[str, int]]:
    """The bar as (part or "" or "limit" or "beyond", characters), `width` characters in all.

    Each part ends at the character that its cumulative sum rounds to, so that the whole is right to
    half a character whatever the number of parts.
    """
    marks: list[str] = []
    total = 0.0
    for name, size in cell.parts:
        total += size
        marks += [name] * (round(total / cell.scale * width) - len(marks))
    beyond = len(marks) > width
    marks = (marks + [""] * width)[:width]
    if cell.limit is not None:
        # The mark stands behind the last character that fits.
        place = min(round(cell.limit / cell.scale * width), width - 1)
        marks[place] = "limit"
    if beyond:
        marks[-1] = "beyond"
    found: list[tuple[str, int]] = []
    for mark in marks:
        if found and found[-1][0] == mark:
            found[-1] = (mark, found[-1][1] + 1)
        else:
            found.append((mark, 1))
    return found


def figures(cell: Parts, width: int | None = None) -> list[tuple[str, str]]:
    """(name, GiB) of the largest parts that fit into `width` characters; the rest as one figure."""
    ordered = sorted(cell.parts, key=lambda part: -part[1])
    shown = [(name, gib(size)) for name, size in ordered if gib(size) != "0.00"]
    if width is None:
        return shown
    for count in range(len(shown), -1, -1):
        rest = sum(size for _, size in ordered[count:])
        kept = shown[:count] + ([("rest", gib(rest))] if count < len(shown) else [])
        if len(sentence(kept)) <= width:
            return kept
    return []


def sentence(pairs: Iterable[tuple[str, str]]) -> str:
    """`weights 3.62, activations 1.20`."""
    return ", ".join(f"{name} {size}" for name, size in pairs)


def gib(size: float) -> str:
    """Bytes as a number of GiB without its unit, three digits: `3.62`, `12.6`, `140`."""
    value = size / GIB
    return (
        f"{value:.2f}"
        if round(value, 2) < 10
        else f"{value:.1f}"
        if value < 99.95
        else f"{value:.0f}"
    )
