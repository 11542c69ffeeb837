"""Live bytes over a step as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from ftadvisor.render.picture import Picture
from ftadvisor.schema.simulation import Moment, SimulatedStep, Timeline
from ftadvisor.units import GIB, format_bytes

COLOURS = {
    "weights": "#4c78a8", "buffers": "#9ecae9", "adapters": "#f58518", "optimizer": "#72b7b2",
    "gradients": "#b279a2", "activations": "#eeca3b", "temporaries": "#e45756",
    "workspace": "#bab0ac", "batch": "#9d755d", "gathered": "#54a24b",
}  # fmt: skip
WIDTH, HEIGHT = 1000, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 60, 60
MOST_TICKS = 8
ROUND = (1.0, 2.0, 5.0, 10.0)
"""What an axis counts in, times a power of ten."""
LETTER = 7
"""Pixels that a letter of a phase's name takes: without room for it the name is left out."""


class _Scale(NamedTuple):
    """From events and bytes to pixels."""

    num_events: int
    most_bytes: float

    def x(self, event: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * event / max(1, self.num_events)

    def y(self, size: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * size / self.most_bytes


def picture(step: SimulatedStep, title: str) -> Picture:
    """The step's timeline."""
    return Picture(title, partial(svg, step, title), partial(_figure, step, title))


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


def _axis(scale: _Scale) -> Iterator[str]:
    step = round_tick(scale.most_bytes / GIB)
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


def round_tick(most: float) -> float:
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
    bottom = HEIGHT - BOTTOM
    for name, event, end in _spans(time):
        x, width = scale.x(event), scale.x(end) - scale.x(event)
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom + 6}" stroke="#888888" '
            'stroke-dasharray="3 3"/>'
        )
        if width >= LETTER * len(name):
            at = f'x="{x + width / 2:.1f}" y="{bottom + 18}"'
            yield f'<text {at} text-anchor="middle">{escape(name)}</text>'
    yield f'<text x="{LEFT}" y="{HEIGHT - 12}" fill="#666666">allocations and releases →</text>'


def _spans(time: Timeline) -> Iterator[tuple[str, int, int]]:
    """Each phase's name, its first event and its end."""
    starts = [(p, next(ms).event) for p, ms in groupby(time.moments, key=lambda m: m.phase)]
    ends = [event for _, event in [*starts, ("", time.num_events)][1:]]
    for (phase, start), end in zip(starts, ends, strict=True):
        yield time.phases[phase], start, end


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
    top = _top(step.timeline)
    if top is None:
        return
    x, y = scale.x(top.event), scale.y(sum(top.live_bytes))
    anchor = "end" if x > WIDTH / 2 else "start"
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="#000000"/>'
    yield (
        f'<text x="{x:.1f}" y="{max(38, y - 10):.1f}" text-anchor="{anchor}" font-weight="600">'
        f"{escape(_said_of_peak(step))}</text>"
    )


def _top(time: Timeline) -> Moment | None:
    return max(time.moments, key=lambda m: sum(m.live_bytes), default=None)


def _said_of_peak(step: SimulatedStep) -> str:
    said = f"peak {format_bytes(step.allocated_bytes)}: {step.peak_phase}"
    return f"{said}, {step.peak_operation} in {step.peak_module}"


def _key(time: Timeline) -> Iterator[str]:
    x, y = WIDTH - RIGHT + 18, TOP + 10
    for at, said in reversed(_shown(time)):
        fill = _colour(time.kinds[at])
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{fill}"/>'
        yield f'<text x="{x + 18}" y="{y}">{escape(said)}</text>'
        y += 20


def _shown(time: Timeline) -> list[tuple[int, str]]:
    """The kinds that hold anything, by their place, and what the key says of each."""
    places = range(len(time.kinds))
    most = [max((m.live_bytes[at] for m in time.moments), default=0) for at in places]
    return [(at, f"{time.kinds[at]}, ≤ {format_bytes(n)}") for at, n in enumerate(most) if n]


def _colour(kind: str) -> str:
    return COLOURS.get(kind, "#999999")


def _figure(step: SimulatedStep, title: str, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(figsize=(WIDTH / 100, HEIGHT / 100), dpi=150)
    top = _top(step.timeline)
    if top is not None:
        _stack(axes, step, top)
    axes.margins(x=0)
    axes.set(xlabel="allocations and releases →", ylabel="live memory [GiB]")
    axes.set_title(title, loc="left", weight="bold", fontsize=11)
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _stack(axes: Any, step: SimulatedStep, top: Moment) -> None:
    """What is alive, by kind, with its peak."""
    time = step.timeline
    shown = _shown(time)
    axes.stackplot(
        [m.event for m in time.moments],
        *([m.live_bytes[at] / GIB for m in time.moments] for at, _ in shown),
        labels=[said for _, said in shown],
        colors=[_colour(time.kinds[at]) for at, _ in shown],
    )
    _name_phases(axes, time)
    peak = (top.event, sum(top.live_bytes) / GIB)
    axes.plot(*peak, "o", markersize=6, markerfacecolor="none", color="#000000")
    right = top.event > time.num_events / 2
    axes.annotate(
        _said_of_peak(step),
        peak,
        xytext=(-6 if right else 6, 8),
        textcoords="offset points",
        ha="right" if right else "left",
        weight="bold",
        fontsize=9,
    )
    axes.set_ylim(0, 1.08 * peak[1])
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), reverse=True, frameon=False)


def _name_phases(axes: Any, time: Timeline) -> None:
    """Phases in the place of numbers of events, where there is room."""
    named: list[tuple[float, str]] = []
    for name, start, end in _spans(time):
        axes.axvline(start, color="#888888", linestyle=":", linewidth=0.8)
        if (end - start) * (WIDTH - LEFT - RIGHT) >= LETTER * len(name) * time.num_events:
            named.append(((start + end) / 2, name))
    axes.set_xticks([at for at, _ in named], [name for _, name in named])
    axes.tick_params(axis="x", length=0, labelsize=9)
