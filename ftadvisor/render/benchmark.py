"""Techniques side by side: a table, and a picture of memory and time."""

from __future__ import annotations

from ftadvisor.render.document import Block, Bullets, Cell, Column, Document, Table, Words
from ftadvisor.render.probe import quantity
from ftadvisor.schema.benchmark import Benched, Benchmark

WIDTH = 24
"""Characters of the longest bar."""


def benchmark_document(found: Benchmark) -> Document:
    """Quality, time, memory and cost in one table, then the bars."""
    probed = [row for row in found.rows if row.probe]
    trained = any(row.report for row in found.rows)
    heads = ["technique", "step", "allocated", "tokens/s", "whole run"]
    heads += ["held out", "before", "after", "trained in"] if trained else []
    rows = tuple(_row(row, trained) for row in found.rows)
    columns = (Column(heads[0]), *(Column(head, right=True) for head in heads[1:]))
    blocks: list[Block] = [Table(columns, rows, f"{found.model} on {found.dataset}")]
    if probed:
        blocks.append(_picture(probed))
    problems = tuple(f"{row.technique}: {row.problem}" for row in found.rows if row.problem)
    if problems:
        blocks.append(Bullets("Not measured", problems, "bad"))
    return tuple(blocks)


def _row(row: Benched, trained: bool) -> tuple[Cell, ...]:
    if row.probe is None:
        return (Words(row.technique), *(Words("–", "dim") for _ in range(8 if trained else 4)))
    whole, after = row.probe.whole, row.probe.calibrated
    speed = after.get("tokens_per_second")
    cells = [
        row.technique,
        quantity("step_seconds", whole.step_seconds),
        quantity("allocated_bytes", whole.allocated_bytes),
        f"{speed:,.0f}" if speed else "–",
        quantity("total_seconds", after.get("total_seconds")),
    ]
    if trained:
        quality = row.quality
        cells += [quality[0], _figure(quality[1]), _figure(quality[2])] if quality else ["–"] * 3
        seconds = row.report.measured.get("total_seconds") if row.report else None
        cells.append(quantity("total_seconds", seconds))
    return tuple(Words(cell) for cell in cells)


def _picture(rows: list[Benched]) -> Table:
    """Bars of what is allocated and of what a step takes, each to the longest of its kind."""
    wholes = [row.probe.whole for row in rows if row.probe]
    most = max(w.allocated_bytes for w in wholes) or 1
    longest = max(w.step_seconds for w in wholes) or 1.0
    cells = tuple(
        (
            Words(row.technique),
            Words(_bar(w.allocated_bytes / most)),
            Words(_bar(w.step_seconds / longest)),
        )
        for row, w in zip(rows, wholes, strict=True)
    )
    return Table((Column("technique"), Column("memory"), Column("time of a step")), cells)


def _bar(share: float) -> str:
    return "█" * max(1, round(WIDTH * share))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
