"""Figures over a run's steps as a picture: SVG written by hand, for light pages and dark ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from ftadvisor.render.timeline import round_tick

WIDTH, HEIGHT = 860, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 40
HEADROOM = 0.06
"""Of the range, left free above and below."""
MOST_POINTS = 600
"""More of them are one pixel."""

Point = tuple[float, float]


class Line(NamedTuple):
    """One figure over steps."""

    name: str
    colour: str
    points: Sequence[Point]
    """(step, figure)."""
    dots: bool = False
    """Points that no line connects."""
    dashed: bool = False


class _Scale(NamedTuple):
    left: float
    right: float
    low: float
    high: float

    def x(self, step: float) -> float:
        share = (step - self.left) / ((self.right - self.left) or 1)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(self, figure: float) -> float:
        share = (figure - self.low) / ((self.high - self.low) or 1)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def chart(
    lines: Sequence[Line], x: str, form: Callable[[float], str], *, from_zero: bool = False
) -> str:
    """The lines over a common axis; `form`: how a figure is written beside it."""
    shown = [line for line in lines if line.points]
    scale = _scale(shown, from_zero)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui,sans-serif" font-size="12" fill="currentColor" role="img">',
            *_axes(scale, x, form),
            *(part for line in shown for part in _drawn(line, scale, form)),
            *_key(shown),
            "</svg>",
        ]
    )


def _scale(lines: Sequence[Line], from_zero: bool) -> _Scale:
    steps = [step for line in lines for step, _ in line.points]
    figures = [figure for line in lines for _, figure in line.points]
    low, high = min(figures), max(figures)
    room = HEADROOM * ((high - low) or abs(high) or 1)
    return _Scale(min(steps), max(steps), 0.0 if from_zero else low - room, high + room)


def _axes(scale: _Scale, x: str, form: Callable[[float], str]) -> Iterator[str]:
    end, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for figure in _ticks(scale.low, scale.high):
        y = scale.y(figure)
        yield f'<line x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}" stroke="#88888840"/>'
        at = f'x="{LEFT - 8}" y="{y + 4:.1f}"'
        yield f'<text {at} text-anchor="end">{escape(form(figure))}</text>'
    for step in _ticks(scale.left, scale.right):
        if step == int(step):
            at = f'x="{scale.x(step):.1f}" y="{bottom + 18}"'
            yield f'<text {at} text-anchor="middle">{step:,.0f}</text>'
    yield f'<text x="{end}" y="{HEIGHT - 6}" text-anchor="end" opacity=".65">{escape(x)}</text>'


def _ticks(low: float, high: float) -> Iterator[float]:
    tick = round_tick((high - low) or 1.0)
    for count in range(round(low // tick), round(high // tick) + 1):
        if low <= count * tick <= high:
            yield count * tick


def _drawn(line: Line, scale: _Scale, form: Callable[[float], str]) -> Iterator[str]:
    every = -(-len(line.points) // MOST_POINTS)
    points = [*line.points[::every], *line.points[-1:]]
    if line.dots:
        for step, figure in points:
            said = escape(f"{line.name}, step {step:,.0f}: {form(figure)}")
            yield (
                f'<circle cx="{scale.x(step):.1f}" cy="{scale.y(figure):.1f}" r="4"'
                f' fill="{line.colour}"><title>{said}</title></circle>'
            )
        return
    path = " ".join(f"{scale.x(step):.1f},{scale.y(figure):.1f}" for step, figure in points)
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    yield f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.8"{dash}/>'


def _key(lines: Sequence[Line]) -> Iterator[str]:
    x = float(LEFT)
    for line in lines:
        yield f'<rect x="{x:.0f}" y="10" width="12" height="12" fill="{line.colour}"/>'
        yield f'<text x="{x + 17:.0f}" y="20">{escape(line.name)}</text>'
        x += 40 + 7 * len(line.name)
