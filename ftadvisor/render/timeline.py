"""Live bytes over a step as a picture: SVG written by hand, HTML around it, PNG by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.schema.simulation import Moment, SimulatedStep, Timeline
from ftadvisor.units import GIB, format_bytes

FORMATS = (".svg", ".html", ".png")
COLOURS = {
    "weights": "#4c78a8", "buffers": "#9ecae9", "adapters": "#f58518", "optimizer": "#72b7b2",
    "gradients": "#b279a2", "activations": "#eeca3b", "temporaries": "#e45756",
    "workspace": "#bab0ac", "batch": "#9d755d",
}  # fmt: skip
WIDTH, HEIGHT = 1000, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 60, 60
MOST_TICKS = 8
ROUND = (1.0, 2.0, 5.0, 10.0)
"""What an axis counts in, times a power of ten."""
NAMED_FROM = 46
"""Pixels from which on a phase's name is written."""


class _Scale(NamedTuple):
    """From events and bytes to pixels."""

    num_events: int
    most_bytes: float

    def x(self, event: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * event / max(1, self.num_events)

    def y(self, size: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * size / self.most_bytes


def check_format(file: str) -> None:
    """Raise InvalidSettingError for a name that says no format which can be drawn here."""
    suffix = Path(file).suffix.lower()
    if suffix not in FORMATS:
        must = "end in .svg, .html or .png"
        raise InvalidSettingError.of("plot", file, must, [f"{Path(file).stem or 'step'}.svg"])
    if suffix == ".png":
        _matplotlib()


def write_plot(file: str, step: SimulatedStep, title: str) -> None:
    """Draw the timeline into a file, in the format that its name says.

    Raises InvalidSettingError where that cannot be done.
    """
    check_format(file)
    suffix = Path(file).suffix.lower()
    try:
        if suffix == ".png":
            _write_png(file, step, title)
        else:
            text = svg(step, title) if suffix == ".svg" else html_page(step, title)
            Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise InvalidSettingError(f"{quoted(file)} cannot be written: {reason}.") from None


def svg(step: SimulatedStep, title: str) -> str:
    """A picture that stands for itself; hovering shows the allocation at each point."""
    time = step.timeline
    most = max((sum(m.live_bytes) for m in time.moments), default=1)
    scale = _Scale(time.num_events, 1.08 * max(most, 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui,sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
        *_axis(scale),
        *_areas(time, scale),
        *_phases(time, scale),
        *_hover(time, scale),
        *_peak(step, scale),
        *_key(time),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def html_page(step: SimulatedStep, title: str) -> str:
    """The picture as a page of its own."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        "</title><style>body{margin:1em}svg{width:100%;height:auto;max-height:95vh}"
        ".hover:hover{fill-opacity:.25}</style></head>\n"
        f"<body>\n{svg(step, title)}</body></html>\n"
    )


def _axis(scale: _Scale) -> Iterator[str]:
    step = _tick(scale.most_bytes / GIB)
    for tick in range(int(scale.most_bytes / GIB / step) + 1):
        size = tick * step * GIB
        y = scale.y(size)
        end = WIDTH - RIGHT
        yield f'<line x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
        label = f"{tick * step:g}"
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    middle = (HEIGHT + TOP - BOTTOM) / 2
    yield (
        f'<text transform="translate(18 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        "live memory [GiB]</text>"
    )


def _tick(most: float) -> float:
    """A round number of which at most MOST_TICKS reach up to `most`."""
    power = 10.0 ** math.floor(math.log10(most / MOST_TICKS))
    return next(power * digit for digit in ROUND if power * digit * MOST_TICKS >= most)


def _areas(time: Timeline, scale: _Scale) -> Iterator[str]:
    lower = [0] * len(time.moments)
    for at, kind in enumerate(time.kinds):
        upper = [low + m.live_bytes[at] for low, m in zip(lower, time.moments, strict=True)]
        if upper != lower:
            ahead = _points(time.moments, upper, scale)
            back = _points(time.moments, lower, scale)[::-1]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*ahead, *back))
            yield f'<polygon points="{points}" fill="{_colour(kind)}"/>'
        lower = upper


def _points(
    moments: tuple[Moment, ...], heights: list[int], scale: _Scale
) -> list[tuple[float, float]]:
    pairs = zip(moments, heights, strict=True)
    return [(scale.x(m.event), scale.y(height)) for m, height in pairs]


def _phases(time: Timeline, scale: _Scale) -> Iterator[str]:
    """Where each phase begins, and its name where there is room."""
    starts = [(p, next(ms).event) for p, ms in groupby(time.moments, key=lambda m: m.phase)]
    ends = [event for _, event in [*starts, ("", time.num_events)][1:]]
    bottom = HEIGHT - BOTTOM
    for (phase, event), end in zip(starts, ends, strict=True):
        x, width = scale.x(event), scale.x(end) - scale.x(event)
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom + 6}" stroke="#888888" '
            'stroke-dasharray="3 3"/>'
        )
        if width >= NAMED_FROM:
            middle = x + width / 2
            name = escape(time.phases[phase])
            yield f'<text x="{middle:.1f}" y="{bottom + 18}" text-anchor="middle">{name}</text>'
    yield f'<text x="{LEFT}" y="{HEIGHT - 12}" fill="#666666">allocations and releases →</text>'


def _hover(time: Timeline, scale: _Scale) -> Iterator[str]:
    """An invisible column for each point, with what there is to say of it."""
    height = HEIGHT - TOP - BOTTOM
    ends = [*(m.event for m in time.moments), time.num_events][1:]
    for moment, end in zip(time.moments, ends, strict=True):
        x = scale.x(moment.event)
        width = max(0.5, scale.x(end) - x)
        said = escape(_said(time, moment))
        yield (
            f'<rect class="hover" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{height}" '
            f'fill-opacity="0"><title>{said}</title></rect>'
        )


def _said(time: Timeline, moment: Moment) -> str:
    head = f"{time.phases[moment.phase]}: {format_bytes(sum(moment.live_bytes))}"
    made = f"\n{moment.operation or 'a release'} in {moment.module}" if moment.module else ""
    held = "".join(
        f"\n{kind} {format_bytes(size)}"
        for kind, size in zip(time.kinds, moment.live_bytes, strict=True)
        if size
    )
    return head + made + held


def _peak(step: SimulatedStep, scale: _Scale) -> Iterator[str]:
    moments = step.timeline.moments
    if not moments:
        return
    top = max(moments, key=lambda m: sum(m.live_bytes))
    x, y = scale.x(top.event), scale.y(sum(top.live_bytes))
    anchor = "end" if x > WIDTH / 2 else "start"
    said = f"peak {format_bytes(step.allocated_bytes)}: {step.peak_phase}"
    where = f"{step.peak_operation} in {step.peak_module}"
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="#000000"/>'
    yield (
        f'<text x="{x:.1f}" y="{max(38, y - 10):.1f}" text-anchor="{anchor}" font-weight="600">'
        f"{escape(f'{said}, {where}')}</text>"
    )


def _key(time: Timeline) -> Iterator[str]:
    x, y = WIDTH - RIGHT + 18, TOP + 10
    for at in reversed(range(len(time.kinds))):
        if not any(m.live_bytes[at] for m in time.moments):
            continue
        kind = time.kinds[at]
        most = max(m.live_bytes[at] for m in time.moments)
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_colour(kind)}"/>'
        yield f'<text x="{x + 18}" y="{y}">{escape(kind)}, ≤ {format_bytes(most)}</text>'
        y += 20


def _colour(kind: str) -> str:
    return COLOURS.get(kind, "#999999")


def _matplotlib() -> Any:
    try:
        matplotlib: Any = import_module("matplotlib")
    except ImportError:
        raise InvalidSettingError(
            "a PNG is drawn by matplotlib, which is not installed.",
            ["--plot FILE.svg", "--plot FILE.html", "pip install matplotlib"],
        ) from None
    return matplotlib


def _write_png(file: str, step: SimulatedStep, title: str) -> None:
    matplotlib = _matplotlib()
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    time = step.timeline
    figure, axes = pyplot.subplots(figsize=(WIDTH / 100, HEIGHT / 100), dpi=150)
    at = [m.event for m in time.moments]
    layers = [[m.live_bytes[k] / GIB for m in time.moments] for k in range(len(time.kinds))]
    shown = [k for k, sizes in enumerate(layers) if any(sizes)]
    axes.stackplot(
        at,
        *(layers[k] for k in shown),
        labels=[time.kinds[k] for k in shown],
        colors=[_colour(time.kinds[k]) for k in shown],
    )
    for phase, moments in groupby(time.moments, key=lambda m: m.phase):
        axes.axvline(next(moments).event, color="#888888", linestyle=":", linewidth=0.8)
        del phase
    top = max(time.moments, key=lambda m: sum(m.live_bytes))
    peak = f"peak {format_bytes(step.allocated_bytes)}: {step.peak_phase}"
    axes.annotate(peak, (top.event, sum(top.live_bytes) / GIB), ha="right", va="bottom")
    axes.set(title=title, xlabel="allocations and releases", ylabel="live memory [GiB]")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    figure.savefig(file, bbox_inches="tight")
    pyplot.close(figure)
