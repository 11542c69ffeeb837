"""What a run did, for people."""

from __future__ import annotations

import shlex

from ftadvisor.render.document import (
    Block,
    Bullets,
    Column,
    Document,
    Table,
    Tone,
    Words,
    paragraph,
)
from ftadvisor.schema.report import Report
from ftadvisor.units import format_bytes, format_duration

TOLD: dict[str, Tone] = {"done": "good", "stopped": "warn", "interrupted": "warn"}


def run_document(report: Report) -> Document:
    """How it ended, the metrics before and after, predicted against measured, what happened."""
    plan = report.plan
    steps = f"{int(report.measured.get('num_steps', 0)):,} steps"
    seconds = format_duration(report.measured.get("total_seconds", 0.0))
    head = f"{plan.technique} of {plan.model} for {plan.objective}: {report.status}"
    tone = TOLD.get(report.status, "bad")
    blocks: list[Block] = [paragraph(f"{head} after {steps}, {seconds}.", tone)]
    if report.metrics:
        blocks.append(_metrics(report))
    blocks.append(_measured(report))
    if report.events:
        blocks.append(Bullets("What happened", tuple(event.what for event in report.events)))
    blocks.append(paragraph(f"Everything is in {report.output_dir}."))
    return tuple(blocks)


def ending(report: Report) -> str:
    """Why a run ended before its last step, and what continues it."""
    last = report.events[-1]
    place = shlex.quote(report.output_dir)
    said = f"{report.status} after step {last.step}: {last.what}."
    if report.status in ("interrupted", "failed"):
        said += f" Continue: ftadvisor run --resume --output-dir {place}"
    return said


def _metrics(report: Report) -> Table:
    rows = tuple(
        (Words(name), Words(_figure(metric.before)), Words(_figure(metric.after)))
        for name, metric in report.metrics.items()
    )
    heads = (Column("held out"), Column("before", right=True), Column("after", right=True))
    return Table(heads, rows)


def _measured(report: Report) -> Table:
    rows = tuple(
        (Words(name), Words(_quantity(name, report.predicted.get(name))), Words(
            _quantity(name, value)))
        for name, value in report.measured.items()
        if name != "num_steps"
    )  # fmt: skip
    heads = (Column("run"), Column("predicted", right=True), Column("measured", right=True))
    return Table(heads, rows)


def _quantity(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.endswith("_bytes"):
        return format_bytes(value)
    return format_duration(value) if name == "total_seconds" else f"{value:.4g}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
