"""What a run did, for people: the parts that terminal, page and model card share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, cast

from ftadvisor.api.running import Rehearsal
from ftadvisor.render.document import (
    Block,
    Bullets,
    Column,
    Document,
    Paragraph,
    Table,
    Tone,
    Words,
    paragraph,
)
from ftadvisor.schema.report import Answer, Metric, Report
from ftadvisor.units import format_bytes, format_duration

TOLD: dict[str, Tone] = {"done": "good", "stopped": "warn", "interrupted": "warn"}
LOWER = ("eval_loss", "perplexity", "general_perplexity", "kl")
"""Metrics that are better when they are lower."""
NEUTRAL = ("reward_margin",)
NAMES = {
    "eval_loss": "loss", "general_perplexity": "perplexity, general text", "f1": "F1, macro",
    "mcc": "MCC", "bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "meteor": "METEOR", "meteor_without_wordnet": "METEOR without WordNet",
}  # fmt: skip
FIGURES = {
    "allocated_bytes": "memory allocated", "reserved_bytes": "memory reserved",
    "device_bytes": "memory of the device", "host_bytes": "memory of the process",
    "step_seconds": "a step", "tokens_per_second": "tokens a second",
    "total_seconds": "training, these steps",
}  # fmt: skip
"""What is measured, in the order in which it is shown."""
SHOWN_ANSWERS = 2
LONGEST = 300
"""Characters of a text in the terminal."""


def run_document(report: Report) -> Document:
    """How it ended, the metrics, a few answers, predicted against measured, what happened."""
    blocks: list[Block] = [headline(report)]
    if report.metrics:
        blocks.append(metrics_table(report.metrics))
    blocks += [answer_table(answer) for answer in report.answers[:SHOWN_ANSWERS]]
    blocks.append(measured_table(report))
    if report.events:
        blocks.append(Bullets("What happened", tuple(event.what for event in report.events)))
    blocks.append(paragraph(f"Everything is in {report.output_dir}; report.html shows it."))
    return tuple(blocks)


def rehearsal_document(found: Rehearsal) -> Document:
    """What would run, what was checked, and the command."""
    plan = found.plan
    settings = ", ".join(
        f"{name} {' '.join(map(str, cast('tuple[Any, ...]', value)))}"
        if isinstance(value, tuple)
        else f"{name} {value}"
        for name, value in plan.settings.items()
    )
    return (
        paragraph(f"{plan.technique} of {plan.model} for {plan.objective}: checked, not run."),
        paragraph(settings),
        Bullets("Checked", tuple(event.what for event in found.events)),
        paragraph(f"After --print-command, which writes this plan: {found.command}"),
    )


def ending(report: Report) -> str:
    """Why a run ended before its last step, and what continues it."""
    last = report.events[-1]
    place = shlex.quote(report.output_dir)
    said = f"{report.status} after step {last.step}: {last.what}."
    if report.status in ("interrupted", "failed"):
        said += f" Continue: ftadvisor run --resume --output-dir {place}"
    return said


def headline(report: Report) -> Paragraph:
    """What was trained, and how it ended."""
    plan = report.plan
    steps = f"{int(report.measured.get('num_steps', 0)):,} steps"
    seconds = format_duration(report.measured.get("total_seconds", 0.0))
    status = report.status.replace("_", " ")
    head = f"{plan.technique} of {name_of(plan.model)} for {plan.objective}: {status}"
    return paragraph(f"{head} after {steps}, {seconds}.", TOLD.get(report.status, "bad"))


def name_of(model: str) -> str:
    """A model's name; of a directory its last part."""
    local = model.startswith((".", "~", "/")) or "\\" in model
    return re.split(r"[\\/]", model.rstrip("/\\"))[-1] if local else model


def metrics_table(metrics: Mapping[str, Metric]) -> Table:
    """Before and after, with the interval of `after`; of one model alone without `before`."""
    rows = tuple(
        (
            Words(NAMES.get(name, name.replace("_", " "))),
            Words(_figure(metric.before)),
            Words(_figure(metric.after), _tone(name, metric)),
            Words(_between(metric), "dim"),
        )
        for name, metric in metrics.items()
    )
    heads = (
        Column("on held-out rows"), Column("before", right=True), Column("after", right=True),
        Column("90 % interval", right=True),
    )  # fmt: skip
    if any(metric.before is not None for metric in metrics.values()):
        return Table(heads, rows)
    alone = (heads[0], Column("", right=True), heads[3])
    return Table(alone, tuple((row[0], row[2], row[3]) for row in rows))


def measured_table(report: Report) -> Table:
    """Predicted against measured; without a prediction what was measured alone."""
    predicted = dict(report.predicted)
    if "step_seconds" in predicted:
        # The plan's total is of all its epochs; a run may be shorter.
        steps = report.measured.get("num_steps", 0.0)
        predicted["total_seconds"] = predicted["step_seconds"] * steps
    named = [name for name in FIGURES if name in report.measured]
    rows = tuple(
        (
            Words(FIGURES[name]),
            Words(quantity(name, report.measured[name])),
            Words(quantity(name, predicted.get(name))),
            Words(_off(predicted.get(name), report.measured[name]), "dim"),
        )
        for name in named
    )
    heads = (
        Column("run"), Column("measured", right=True), Column("predicted", right=True),
        Column("off by", right=True),
    )  # fmt: skip
    if any(name in predicted for name in named):
        return Table(heads, rows)
    return Table(heads[:2], tuple(row[:2] for row in rows))


def quantity(name: str, value: float | None) -> str:
    """A measured figure in its unit, by its name."""
    if value is None:
        return "–"
    if name.endswith("_bytes"):
        return format_bytes(value)
    return format_duration(value) if name.endswith("_seconds") else f"{value:,.4g}"


def answer_table(answer: Answer) -> Table:
    """One prompt with both answers."""
    said: list[tuple[str, str, Tone]] = [
        ("asked", answer.prompt, "strong"), ("before", answer.before, "dim"),
        ("after", answer.after, ""), ("wanted", answer.reference, "dim"),
    ]  # fmt: skip
    rows = tuple(
        (Words(name, "dim"), Words(_short(text) or "(nothing)", tone))
        for name, text, tone in said
        if text or name in ("asked", "after")
    )
    return Table((Column(""), Column("", fold=True)), rows)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 2]} …"


def _tone(name: str, metric: Metric) -> Tone:
    """Better or worse where the interval leaves out what it was before."""
    if None in (metric.before, metric.low, metric.high) or name in NEUTRAL:
        return ""
    before, low, high = metric.before or 0.0, metric.low or 0.0, metric.high or 0.0
    if low <= before <= high:
        return ""
    return "good" if (high < before) == (name in LOWER) else "bad"


def _between(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return "–"
    return f"{_figure(metric.low)}–{_figure(metric.high)}"


def _off(predicted: float | None, measured: float | None) -> str:
    if not predicted or not measured:
        return "–"
    return f"{100 * (predicted / measured - 1):+,.0f} %"


def _figure(value: float | None) -> str:
    """Three digits, without an exponent where it reads well."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"
