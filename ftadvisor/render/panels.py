"""Figures of several things side by side: one panel of bars for each kind of figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from typing import Any, NamedTuple

from ftadvisor.render.picture import Picture

NAMES, PANEL, GAP, RIGHT = 120, 200, 24, 12
"""Pixels of the column of names, of a panel, between panels, and at the end."""
LABEL = 78
"""Of a panel, kept free for the figure behind the longest bar."""
TOP, ROW, BAR, BOTTOM = 74, 34, 18, 34
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
GREY = "#666666"


class Bar(NamedTuple):
    """One figure; None: not known."""

    value: float | None
    low: float | None = None
    """The ends of its 90 % interval, where it has one."""
    high: float | None = None
    before: float | None = None
    """What it was before, where it was something."""

    @property
    def most(self) -> float:
        """The furthest that anything of it is drawn to."""
        return max(v for v in (self.value, self.high, self.before, 0.0) if v is not None)


class Panel(NamedTuple):
    """One kind of figure."""

    title: str
    said: str
    """Under the title: which end is better, and of what it is."""
    form: Callable[[float], str]
    unknown: str
    """In the place of a figure that is not known."""
    bars: tuple[Bar, ...]
    """In the order of the names."""

    def label(self, bar: Bar) -> str:
        """The figure as it is written."""
        return self.unknown if bar.value is None else self.form(bar.value)

    @property
    def most(self) -> float:
        """What the panel is as wide as."""
        return max((bar.most for bar in self.bars), default=0.0) or 1.0


def panels_picture(
    title: str, names: Sequence[str], panels: Sequence[Panel], note: str = ""
) -> Picture:
    """The panels beside each other, a row for each name."""
    of = title, names, panels, note
    return Picture(title, partial(_svg, *of), partial(_figure, *of))


def _svg(title: str, names: Sequence[str], panels: Sequence[Panel], note: str) -> str:
    width = NAMES + len(panels) * (PANEL + GAP) + RIGHT
    height = TOP + ROW * len(names) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui,sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(12, 22, title, 'font-size="15" font-weight="600"'),
    ]
    for row, name in enumerate(names):
        parts.append(_text(NAMES - 10, _middle(row) + 4, name, 'text-anchor="end"'))
    for place, panel in enumerate(panels):
        left = NAMES + place * (PANEL + GAP)
        parts += _panel(panel, left, COLOURS[place % len(COLOURS)], len(names))
    parts.append(_text(12, height - 10, note, f'fill="{GREY}"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, colour: str, rows: int) -> Iterator[str]:
    yield _text(left, 48, panel.title, 'font-weight="600"')
    yield _text(left, 63, panel.said, f'font-size="11" fill="{GREY}"')
    end = TOP + ROW * rows
    yield f'<line x1="{left}" x2="{left}" y1="{TOP}" y2="{end}" stroke="#888888"/>'
    scale = (PANEL - LABEL) / panel.most
    for row, bar in enumerate(panel.bars):
        y, most = _middle(row), left + scale * bar.most
        if bar.value is not None:
            size = f'width="{scale * bar.value:.1f}" height="{BAR}"'
            yield f'<rect x="{left}" y="{y - BAR / 2}" {size} fill="{colour}"/>'
        if bar.low is not None and bar.high is not None:
            ends = f'x1="{left + scale * bar.low:.1f}" x2="{left + scale * bar.high:.1f}"'
            yield f'<line {ends} y1="{y}" y2="{y}" stroke="#000000"/>'
        if bar.before is not None:
            x = f"{left + scale * bar.before:.1f}"
            at = f'x1="{x}" x2="{x}" y1="{y - BAR / 2 - 3}" y2="{y + BAR / 2 + 3}"'
            yield f'<line {at} stroke="#000000" stroke-dasharray="2 2"/>'
        fill = GREY if bar.value is None else "#000000"
        yield _text(most + 6, y + 4, panel.label(bar), f'fill="{fill}"')


def _middle(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _text(x: float, y: float, said: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(said)}</text>'


def _figure(
    title: str, names: Sequence[str], panels: Sequence[Panel], note: str, pyplot: Any
) -> Any:
    size = (1.2 + 2.4 * len(panels), 1.1 + 0.36 * len(names))
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, dpi=150, squeeze=False)
    for place, (panel, axis) in enumerate(zip(panels, axes[0], strict=True)):
        _axis(axis, panel, COLOURS[place % len(COLOURS)])
        axis.set_yticks(range(len(names)), names if place == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    figure.tight_layout()
    figure.text(0.01, -0.02, note, fontsize=8, color=GREY, va="top")
    return figure


def _axis(axis: Any, panel: Panel, colour: str) -> None:
    for row, bar in enumerate(panel.bars):
        axis.barh(row, bar.value or 0.0, height=0.55, color=colour)
        if bar.low is not None and bar.high is not None:
            axis.plot([bar.low, bar.high], [row, row], color="#000000", linewidth=1)
        if bar.before is not None:
            axis.plot([bar.before] * 2, [row - 0.36, row + 0.36], ":", color="#000000")
        colour_of_label = GREY if bar.value is None else "#000000"
        axis.annotate(
            panel.label(bar),
            (bar.most, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour_of_label,
        )
    axis.set_xlim(0, panel.most * PANEL / (PANEL - LABEL))
    axis.set_title(panel.title, loc="left", fontsize=9, weight="bold", pad=16)
    axis.annotate(
        panel.said, (0, 1), xytext=(0, 5), xycoords="axes fraction",
        textcoords="offset points", fontsize=7, color=GREY,
    )  # fmt: skip
    axis.set_xticks([])
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
