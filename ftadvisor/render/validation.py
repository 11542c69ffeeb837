"""What `ftadvisor validate` found, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ftadvisor.render.document import (
    Block,
    Bullets,
    Column,
    Document,
    Table,
    Words,
    paragraph,
)
from ftadvisor.validation.report import Report
from ftadvisor.validation.rows import Row
from ftadvisor.validation.scores import Summary

WORST_ROWS = 10
_HEADS = ("rows", "scored", "median", "90 %", "mean", "bias", "covered", "half-width", "score")
_DROPPED = {"score": 4, "half-width": 3, "mean": 2, "rows": 1}
"""Left out where the terminal is too narrow, the highest number first."""


def report_document(report: Report) -> Document:
    """Errors by group, the worst rows, what was not predicted, verdicts and bounds."""
    blocks: list[Block] = [
        _groups(report, "memory"),
        _groups(report, "time"),
        _worst(report, "memory"),
        _worst(report, "time"),
        _verdicts(report),
        *_unsupported(report),
    ]
    blocks += [paragraph(note) for note in report.notes]
    if report.bounds:
        blocks.append(_bounds(report))
    return tuple(blocks)


def percent(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "–" if value is None else f"{value:.1%}"


def _groups(report: Report, what: str) -> Table:
    rows: list[tuple[Words, ...]] = []
    for name, members in report.groups(report.by).items():
        found = report.memory(members) if what == "memory" else report.time(members)
        if found.rows:
            rows.append((Words(name), *_figures(found)))
    whole = report.memory() if what == "memory" else report.time()
    rows.append((Words("all", "strong"), *_figures(whole)))
    figures = (Column(head, right=True, drop=_DROPPED.get(head, 0)) for head in _HEADS)
    heads = (Column(report.by), *figures)
    return Table(heads, tuple(rows), f"{what}, absolute errors")


def _figures(found: Summary) -> Iterable[Words]:
    shares = (
        found.median_abs_error,
        found.p90_abs_error,
        found.mean_abs_error,
        found.bias,
        found.coverage90,
        found.median_half_width,
        found.interval_score,
    )
    yield Words(str(found.rows))
    yield Words(str(found.scored))
    yield from (Words(percent(share)) for share in shares)


def _worst(report: Report, what: str) -> Table:
    """The rows with the largest errors among those that count."""
    scored: list[tuple[float, Row]] = []
    for row in report.rows:
        score = row.memory if what == "memory" else row.time
        counts = row.counts_for(what)
        if score is not None and counts:
            scored.append((score.error, row))
    scored.sort(key=lambda pair: -abs(pair[0]))
    rows = tuple(
        (
            Words(f"{error:+.0%}", "bad"),
            Words(row.measurement.id),
            Words(row.measurement.model),
            Words(str(row.measurement.row["technique"])),
            Words(row.measurement.gpu),
        )
        for error, row in scored[:WORST_ROWS]
    )
    heads = (Column("error", right=True), Column("row", fold=True), Column("model", fold=True))
    return Table((*heads, Column("technique"), Column("gpu")), rows, f"worst rows, {what}")


def _verdicts(report: Report) -> Block:
    found = report.verdicts()
    return paragraph(
        f"Verdicts: of {found['oom_rows']} runs that ended out of memory "
        f"{found['oom_called_fits']} are called fits; of {found['ran_rows']} that ran "
        f"{found['ran_called_does_not_fit']} are called does not fit; "
        f"{found['tight']} are called tight."
    )


def _unsupported(report: Report) -> list[Block]:
    reasons: Counter[str] = Counter()
    example: dict[str, str] = {}
    for row in report.rows:
        if row.unsupported:
            reason = row.unsupported.replace(row.measurement.id, "the row")
            if report.simulated:
                reason = f"{row.measurement.source}: {reason}"
            reasons[reason] += 1
            example.setdefault(reason, row.measurement.id)
    items = tuple(f"{n} × {why} ({example[why]})" for why, n in reasons.most_common())
    return [Bullets("Not predicted", items)] if items else []


def _bounds(report: Report) -> Table:
    rows = tuple(
        (
            Words("holds", "good") if bound.holds else Words("fails", "bad"),
            Words(bound.name),
            Words(percent(bound.value)),
            Words(
                f"{percent(bound.least)} to {percent(bound.limit)}"
                if bound.least
                else f"at most {percent(bound.limit)}"
            ),
        )
        for bound in report.bounds
    )
    heads = (Column(""), Column("bound", fold=True), Column("value", right=True), Column("must be"))
    return Table(heads, rows, "stated bounds")
