"""report.html: a run on one page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, cast

from ftadvisor.render.chart import Line, chart
from ftadvisor.render.document import Block, Column, Table, Words
from ftadvisor.render.html import STYLE, html_blocks
from ftadvisor.render.run import headline, measured_table, metrics_table, name_of
from ftadvisor.schema.report import Report
from ftadvisor.units import GIB, format_bytes

TRAINING, HELD_OUT, PREDICTED, PROCESS = "#4c78a8", "#e45756", "#888888", "#72b7b2"
SMOOTHED = 10
"""A mean over a tenth of the run's steps is drawn over the losses."""
PAGE_STYLE = """
:root{color-scheme:light dark}
body{margin:2rem auto;padding:0 1rem;max-width:64rem;font:14px/1.5 system-ui,sans-serif}
h1{font-size:1.4em;margin:0 0 .2em}
h2{font-size:1.05em;margin:1.8em 0 .5em}
svg{width:100%;height:auto;display:block}
.answers td{white-space:pre-wrap;vertical-align:top;min-width:10em;max-width:24em;
overflow-wrap:anywhere}
details{margin-top:1.8em}
summary{cursor:pointer;font-weight:600}
"""


def report_page(report: Report) -> str:
    """The whole page."""
    title = f"{report.plan.technique} of {name_of(report.plan.model)}"
    body = "\n".join(_sections(report))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{PAGE_STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def settings_table(report: Report) -> Table:
    """What the plan sets."""
    plan = report.plan
    data = plan.dataset.path if plan.dataset else "–"
    stated: dict[str, Any] = {
        "model": plan.model, "technique": plan.technique, "objective": plan.objective,
        "dataset": data, "GPU": plan.hardware.gpu or "none", "GPUs": plan.hardware.num_gpus,
        "seed": plan.seed, **plan.settings,
    }  # fmt: skip
    rows = tuple((Words(name), Words(_said(value))) for name, value in stated.items())
    return Table((Column("setting"), Column("value", fold=True)), rows)


def versions_table(report: Report) -> Table:
    """Of the libraries that took part."""
    rows = tuple((Words(name), Words(found)) for name, found in report.versions.items())
    return Table((Column("library"), Column("version")), rows)


def _sections(report: Report) -> Iterator[str]:
    yield _blocks(headline(report))
    losses = _losses(report)
    if losses:
        yield from ("<h2>Loss</h2>", losses)
    if report.metrics:
        yield from ("<h2>Before and after</h2>", _blocks(metrics_table(report.metrics)))
    if report.answers:
        yield from ("<h2>Answers to held-out prompts</h2>", _answers(report))
    yield from ("<h2>Predicted against measured</h2>", _blocks(measured_table(report)))
    memory = _memory(report)
    if memory:
        yield from ("<h2>Memory</h2>", memory)
    if report.events:
        yield from ("<h2>What happened</h2>", _blocks(_events(report)))
    yield f"<details><summary>Plan</summary>{_blocks(settings_table(report))}</details>"
    yield f"<details><summary>Versions</summary>{_blocks(versions_table(report))}</details>"


def _blocks(*blocks: Block) -> str:
    return f'<div class="ftadvisor">{html_blocks(blocks)}</div>'


def _losses(report: Report) -> str:
    points = [(r["step"], r["loss"]) for r in report.losses if r.get("loss") is not None]
    if not points:
        return ""
    lines = [Line("training", f"{TRAINING}66", points)]
    window = len(points) // SMOOTHED
    if window > 1:
        lines.append(Line(f"mean of {window} steps", TRAINING, _smoothed(points, window)))
    metric = report.metrics.get("eval_loss")
    if metric:
        ends = ((0.0, metric.before), (points[-1][0], metric.after))
        held_out = [(step, loss) for step, loss in ends if loss is not None]
        lines.append(Line("held out", HELD_OUT, held_out, dots=True))
    return chart(lines, "steps", lambda loss: f"{loss:.4g}")


def _smoothed(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """At each step the mean of the losses around it, of those that there are at the ends."""
    half = window // 2
    around = (points[max(0, i - half) : i + half + 1] for i in range(len(points)))
    return [
        (step, sum(loss for _, loss in near) / len(near))
        for (step, _), near in zip(points, around, strict=True)
    ]


def _memory(report: Report) -> str:
    """What each step allocated at most, beside what was predicted; of a CPU, the process too."""
    allocated, process = (
        [(row["step"], row[key] / GIB) for row in report.memory if key in row]
        for key in ("allocated_bytes", "host_bytes")
    )
    lines: list[Line] = []
    if allocated:
        # Of a CPU a few steps are watched.
        few = len(allocated) < len(report.memory)
        said = f"allocated, peak of {'watched steps' if few else 'each step'}"
        lines.append(Line(said, TRAINING, allocated, dots=few))
        predicted = report.predicted.get("allocated_bytes")
        if predicted:
            ends = [(report.memory[i]["step"], predicted / GIB) for i in (0, -1)]
            said = f"predicted {format_bytes(predicted)}"
            lines.append(Line(said, PREDICTED, ends, dashed=True))
    if process:
        lines.append(Line("of the process, after each step", PROCESS, process))
    return chart(lines, "steps", lambda gib: f"{gib:.3g} GiB", from_zero=True) if lines else ""


def _answers(report: Report) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("asked", "before", "after", "wanted"))
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text) or '–'}</td>" for text in (
            answer.prompt, answer.before, answer.after, answer.reference)) + "</tr>"
        for answer in report.answers
    )  # fmt: skip
    return (
        '<div class="ftadvisor"><div class="scroll answers"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _events(report: Report) -> Table:
    rows = tuple((Words(f"{e.step:,}"), Words(e.kind), Words(e.what)) for e in report.events)
    heads = (Column("step", right=True), Column("about"), Column("", fold=True))
    return Table(heads, rows)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast("list[Any]", value)))
    return str(value)
