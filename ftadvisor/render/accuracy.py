"""docs/accuracy.md and the README's table: how wrong the predictions are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ftadvisor.render.document import Bullets, Column, Document, Table, Words, paragraph
from ftadvisor.render.markdown import markdown
from ftadvisor.render.validation import percent, report_document
from ftadvisor.schema.measurement import Measurement
from ftadvisor.sources.coefficients import left_out
from ftadvisor.validation.report import Report
from ftadvisor.validation.rows import ran
from ftadvisor.validation.scores import Summary

POOLED = "pooled"


def accuracy_markdown(report: Report) -> str:
    """Bounds, errors by source, the same with a source left out, worst rows, what is missing."""
    *findings, bounds = report_document(report)
    memory, time, *others = findings
    document: Document = (
        bounds,
        memory,
        left_out_table("memory"),
        time,
        left_out_table("time"),
        left_out_table("cpu"),
        *others,
        wrong_verdicts(report),
    )
    return markdown(document)


def wrong_verdicts(report: Report) -> Bullets:
    """The runs whose verdict is the opposite of what happened."""
    items = [
        f"{row.measurement.id}: {row.measurement.model}, {row.measurement.row['technique']}, "
        f"{row.measurement.gpu}: {said}"
        for row in report.rows
        for wrong, said in (
            (row.measurement.oom and row.verdict == "fits", "ran out of memory, called fits"),
            (
                ran(row.measurement) and row.verdict == "does_not_fit",
                "ran, called does not fit",
            ),
        )
        if wrong
    ]
    return Bullets("Wrong verdicts", tuple(items) or ("none",))


def left_out_table(what: str) -> Table:
    """Each source predicted by a fit that never saw it, the worst first."""
    found = left_out(what)
    sources = sorted(
        (name for name in found if name != POOLED),
        key=lambda name: -found[name]["median_abs_error"],
    )
    rows = [_left_out_row(name, found[name]) for name in sources]
    rows.append(_left_out_row(POOLED, found[POOLED], name_tone="strong"))
    heads = (Column("source left out"), *(Column(head, right=True) for head in _HEADS))
    return Table(heads, tuple(rows), f"{_TITLES.get(what, what)}, each source predicted without it")


_TITLES = {"cpu": "seconds of a step on a processor, by kind of model"}


_HEADS = ("rows", "median", "90 %", "covered")


def _left_out_row(name: str, found: dict[str, Any], *, name_tone: Any = "") -> tuple[Words, ...]:
    shares = (found[key] for key in ("median_abs_error", "p90_abs_error", "coverage90"))
    return (
        Words(name, name_tone),
        Words(str(found["rows"])),
        *(Words(percent(share)) for share in shares),
    )


def summary_markdown(report: Report) -> str:
    """The README's table "How wrong is it?"."""
    rows = (
        _summary_row("allocated memory, full-length batches", _memory(report, _full_length)),
        _summary_row("memory, all rows", report.memory()),
        _left_out_summary("memory, their source left out of the fit", "memory"),
        _summary_row("seconds of a micro-step", report.time()),
        _left_out_summary("seconds, their source left out of the fit", "time"),
    )
    heads = ("published rows", "median error", "90th percentile", "inside the 90 % interval")
    table = Table((Column(""), *(Column(head, right=True) for head in heads)), rows)
    return markdown((table, paragraph(f"{_verdicts(report)} {_worst_sources()}")))


def _full_length(m: Measurement) -> bool:
    return m.memory_metric == "allocated" and m.row.get("sequence_fill") == "full"


def _memory(report: Report, keep: Callable[[Measurement], bool]) -> Summary:
    return report.memory([row for row in report.rows if keep(row.measurement)])


def _summary_row(name: str, found: Summary) -> tuple[Words, ...]:
    shares = (found.median_abs_error, found.p90_abs_error, found.coverage90)
    return (Words(name), Words(str(found.scored)), *(Words(percent(share)) for share in shares))


def _left_out_summary(name: str, what: str) -> tuple[Words, ...]:
    return _left_out_row(name, left_out(what)[POOLED])


def _verdicts(report: Report) -> str:
    found = report.verdicts()
    return (
        f"Of {found['oom_rows']} published runs that ended out of memory "
        f"{found['oom_called_fits']} are called *fits*; of {found['ran_rows']} that ran "
        f"{found['ran_called_does_not_fit']} are called *does not fit*."
    )


def _worst_sources() -> str:
    return "The worst source when it is left out: " + ", ".join(_worst(("memory", "time"))) + "."


def _worst(kinds: Iterable[str]) -> Iterable[str]:
    for what in kinds:
        found = left_out(what)
        name = max((n for n in found if n != POOLED), key=lambda n: found[n]["median_abs_error"])
        median = percent(found[name]["median_abs_error"])
        yield f"{name} for {what} (median error {median} over {found[name]['rows']} rows)"
