"""Techniques side by side: a table, and a picture of quality, time, memory and cost."""

from __future__ import annotations

from ftadvisor.render.document import Block, Bullets, Cell, Column, Document, Table, Words
from ftadvisor.render.panels import Bar, Panel, panels_picture
from ftadvisor.render.picture import Picture
from ftadvisor.render.probe import quantity
from ftadvisor.schema.benchmark import Benched, Benchmark
from ftadvisor.units import format_bytes, format_duration, format_usd

WIDTH = 16
"""Characters of the longest bar."""
UNKNOWN = "unknown"
LESS_IS_BETTER = ("loss", "perplexity")


def benchmark_document(found: Benchmark) -> Document:
    """Quality, time, memory and cost in one table, then the bars."""
    trained = any(row.report for row in found.rows)
    heads = ["technique", "step", "allocated", "tokens/s", "whole run", "cost"]
    heads += ["held out", "before", "after", "trained in"] if trained else []
    rows = tuple(_row(row, len(heads), trained) for row in found.rows)
    columns = (Column(heads[0]), *(Column(head, right=True) for head in heads[1:]))
    blocks: list[Block] = [Table(columns, rows, _title(found))]
    if any(row.probe for row in found.rows):
        blocks.append(_bars(found))
    problems = tuple(f"{row.technique}: {row.problem}" for row in found.rows if row.problem)
    if problems:
        blocks.append(Bullets("Not done", problems, "bad"))
    return tuple(blocks)


def benchmark_picture(found: Benchmark) -> Picture:
    """The same figures as a file's picture."""
    names = [row.technique for row in found.rows if row.probe]
    panels = _panels(found)
    bars = [bar for panel in panels for bar in panel.bars]
    said = "Bars begin at 0."
    if any(bar.low is not None for bar in bars):
        said += " Lines: 90 % intervals."
    if any(bar.before is not None for bar in bars):
        said += " Dotted: before training."
    return panels_picture(_title(found), names, panels, said)


def _title(found: Benchmark) -> str:
    return f"{found.model} on {found.dataset}"


def _row(row: Benched, width: int, trained: bool) -> tuple[Cell, ...]:
    if row.probe is None:
        return (Words(row.technique), *(Words("–", "dim") for _ in range(width - 1)))
    whole, after = row.probe.whole, row.probe.calibrated
    speed, usd = after.get("tokens_per_second"), after.get("total_usd")
    cells = [
        row.technique,
        quantity("step_seconds", whole.step_seconds),
        quantity("allocated_bytes", whole.allocated_bytes),
        f"{speed:,.0f}" if speed else "–",
        quantity("total_seconds", after.get("total_seconds")),
        UNKNOWN if usd is None else format_usd(usd),
    ]
    if trained:
        quality = row.quality
        cells += (
            [quality[0], _figure(quality[1].before), _figure(quality[1].after)]
            if quality
            else ["–"] * 3
        )
        seconds = row.report.measured.get("total_seconds") if row.report else None
        cells.append(quantity("total_seconds", seconds))
    return tuple(Words(cell) for cell in cells)


def _panels(found: Benchmark) -> list[Panel]:
    """Quality where something was trained, and what every probe says."""
    rows = [row for row in found.rows if row.probe]
    probes = [row.probe for row in rows if row.probe]
    after = [probe.calibrated for probe in probes]
    cost = tuple(
        Bar(c.get("total_usd"), c.get("total_low_usd"), c.get("total_high_usd")) for c in after
    )
    steps = tuple(Bar(probe.whole.step_seconds) for probe in probes)
    memory = tuple(Bar(float(probe.whole.allocated_bytes)) for probe in probes)
    return [
        *_quality(rows),
        Panel("time of a step", "measured, less is better", format_duration, "–", steps),
        Panel("memory", "allocated, less is better", format_bytes, "–", memory),
        Panel("cost", "predicted of the run, less is better", format_usd, UNKNOWN, cost),
    ]


def _quality(rows: list[Benched]) -> list[Panel]:
    known = [row.quality for row in rows]
    names = {quality[0] for quality in known if quality}
    if not names:
        return []
    name = min(names)
    better = "less" if any(word in name for word in LESS_IS_BETTER) else "more"
    bars = tuple(
        Bar(q[1].after, q[1].low, q[1].high, q[1].before) if q and q[0] == name else Bar(None)
        for q in known
    )
    return [Panel(name, f"held out, {better} is better", _figure, "–", bars)]


def _bars(found: Benchmark) -> Table:
    """The panels as bars of characters, each to the longest of its kind."""
    names = [row.technique for row in found.rows if row.probe]
    panels = _panels(found)
    cells = tuple(
        (Words(name), *(Words(_bar(panel, panel.bars[at])) for panel in panels))
        for at, name in enumerate(names)
    )
    return Table((Column("technique"), *(Column(panel.title) for panel in panels)), cells)


def _bar(panel: Panel, bar: Bar) -> str:
    if bar.value is None:
        return panel.unknown
    most = max(other.value or 0.0 for other in panel.bars) or 1.0
    return "█" * max(1, round(WIDTH * bar.value / most))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
