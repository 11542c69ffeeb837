"""A recommendation as a document: the plan, what it takes, why, and what else there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Any

from ftadvisor.render.cells import NONE, cost_cell, gpus_named, memory_cell, name_of, time_cell
from ftadvisor.render.document import (
    Block,
    Bullets,
    Column,
    Document,
    Paragraph,
    Table,
    Words,
    paragraph,
)
from ftadvisor.render.estimate import legend, subject
from ftadvisor.render.plan_settings import (
    plan_line,
    setting_value,
    settings_table,
    takes_table,
)
from ftadvisor.render.remedies import remedies_blocks
from ftadvisor.schema.plan import Alternative, Plan, Reason, Recommendation, Rejected, Standing
from ftadvisor.units import (
    format_bytes,
    format_duration,
    format_range,
    format_usd,
)

REASONS_SHOWN = 8
MANY_BEYOND = 4
"""From so many on, techniques that one limit forbids share a line."""
_LIMITS: dict[str, tuple[Callable[[float], str], str]] = {
    "does-not-fit": (format_bytes, "may need {} at their smallest, {} are usable"),
    "over-budget": (format_usd, "cost {} at their cheapest, the budget is {}"),
    "over-deadline": (format_duration, "take {} at their fastest, the deadline is {}"),
}
"""How to print what a limit is about, and what to say of several techniques beyond it."""
_QUOTA = {
    "limits": 2, "objective": 1, "technique": 2, "comparison": 2, "learning_rate": 1,
    "num_train_epochs": 1, "lora_r": 1,
}  # fmt: skip
"""How many of each kind decide: what cannot be, what for, which technique, with what."""
_UNKNOWN = Words("unknown", "dim")
RECALLED = "recalled, not checked"


def recommendation_document(r: Recommendation) -> Document:
    """All that a person who has to decide should read, what counts most first."""
    blocks: list[Block] = [_heading(r)]
    if r.warnings:
        blocks.append(Bullets("Read first", tuple(Words(w, "warn") for w in r.warnings), "warn"))
    if r.plan is not None:
        blocks += [takes_table(r.plan), legend([r.plan.estimate]), settings_table(r.plan)]
    else:
        blocks += _nothing_fits(r)
    blocks += _because(r)
    blocks += _rejected(r)
    blocks += _alternatives(r)
    if r.flips:
        blocks.append(Bullets("What would change the answer", r.flips))
    blocks += _evaluation(r)
    blocks += _standings(r)
    if r.assumptions:
        blocks.append(Bullets("Assumed", r.assumptions))
    return tuple(blocks)


def _heading(r: Recommendation) -> Paragraph:
    if r.plan is None:
        where = f" on {gpus_named(r.gpus)}" if r.gpus else ""
        what = "No run keeps to budget and deadline" if _beyond_wishes(r) else "Nothing fits"
        lines = [Words(f"{what}: {r.model}{where}", "bad")]
    else:
        lines = [Words(subject(r.plan.estimate), "dim"), Words(plan_line(r.plan), "strong")]
    data = _data(r)
    return Paragraph((*lines[:1], *([Words(data, "dim")] if data else []), *lines[1:]))


def _data(r: Recommendation) -> str:
    """What was read in the dataset, in a line."""
    d = r.dataset
    if d is None:
        return ""
    kind = (d["format"] or "mixed").replace("_", " ")
    words = f"{PurePath(d['path']).name}: {d['num_examples']:,} examples ({kind})"
    lengths = d["lengths"]
    if lengths is None:
        return words
    longest = lengths["percentiles"][99]
    counted = "" if lengths["tokenizer"] else "about "
    return (
        f"{words}, {counted}{lengths['mean']:,.0f} tokens on average,"
        f" 99 of 100 within {longest:,.0f}"
    )


def _beyond_wishes(r: Recommendation) -> bool:
    """Whether budget or deadline is what nothing keeps to."""
    return any(row.rule in ("over-budget", "over-deadline") for row in r.rejected)


def _nothing_fits(r: Recommendation) -> list[Block]:
    if _beyond_wishes(r):
        # What would make room helps nobody who is short of money or of time.
        return []
    ladder = remedies_blocks(r.remedies, r.model or "it")
    return ladder or [paragraph("No single change that was tried makes it fit.", "bad")]


def _because(r: Recommendation) -> Iterator[Block]:
    shown = deciding(r.reasons)
    if not shown:
        return
    yield Bullets(
        "Because",
        tuple(Words(_said(one, r) + _mark(one.evidence), "", provenance(one)) for one in shown),
    )
    more = len(r.reasons) - len(shown)
    if more:
        noun = "reason" if more == 1 else "reasons"
        text = f"{more} more {noun}: --json shows all, `ftadvisor explain RULE` each."
        yield paragraph(text, "dim")


def _said(reason: Reason, r: Recommendation) -> str:
    """The reason, with the setting or the numbers that it is about."""
    if reason.about in (r.plan.settings if r.plan else {}):
        assert r.plan is not None
        return f"{reason.about} {setting_value(r.plan.settings[reason.about])}: {reason.because}"
    rows = sorted((x for x in r.rejected if x.rule == reason.rule), key=lambda x: x.needs or 0.0)
    numbers = [f"{row.technique} {row.why}" for row in rows]
    if reason.about != "limits" or not numbers:
        return reason.because
    more = f" ({len(numbers) - 1} more below)" if len(numbers) > 1 else ""
    return f"{numbers[0]}{more}."


def deciding(reasons: Iterable[Reason], limit: int = REASONS_SHOWN) -> list[Reason]:
    """The reasons that are shown first, some of each kind."""
    by_kind: dict[str, list[Reason]] = {}
    for reason in reasons:
        by_kind.setdefault(reason.about, []).append(reason)
    taken = [one for about, most in _QUOTA.items() for one in by_kind.get(about, [])[:most]]
    return taken[:limit]


def provenance(reason: Reason) -> str:
    """Rule, source, and the rules that it goes before."""
    words = f"{reason.rule}: {reason.source}"
    return f"{words}; goes before {', '.join(reason.overrides)}" if reason.overrides else words


def _mark(evidence: str) -> str:
    return f" ({RECALLED})" if evidence == "recalled" else ""


def _rejected(r: Recommendation) -> Iterator[Block]:
    """A row for each reason; techniques that share one, or are plainly worse, stand together."""
    recalled = {reason.rule for reason in r.reasons if reason.evidence == "recalled"}
    rows: list[tuple[Words, ...]] = []
    behind = _behind(r)
    beyond: list[Rejected] = []
    for rule in _LIMITS:
        many = _beyond(r, rule)
        beyond += many
        rows += [_together(rule, many)] if many else []
    by_why: dict[tuple[str, str], list[str]] = {}
    for row in r.rejected:
        if row.technique not in behind and row not in beyond:
            by_why.setdefault((row.why, row.rule), []).append(row.technique)
    for (why, rule), names in sorted(by_why.items(), key=_unknown_last):
        mark = _mark("recalled" if rule in recalled else "")
        rows.append((Words(", ".join(names), "strong"), Words(why + mark)))
    if behind and r.plan is not None:
        names = ", ".join(sorted(behind, key=lambda name: -behind[name]))
        why = f"{_span(behind.values())} points against {r.plan.technique}: see the last table"
        rows.append((Words(names, "strong"), Words(why)))
    if rows:
        columns = (Column("technique", fold=True, widest=30), Column("why not", fold=True))
        yield Table(columns, tuple(rows), "Rejected")


def _beyond(r: Recommendation, rule: str) -> list[Rejected]:
    """Techniques that one limit forbids, if they are too many for a line each."""
    rows = [x for x in r.rejected if x.rule == rule and x.needs is not None]
    same_limit = len({x.has for x in rows}) == 1
    few = len(rows) < MANY_BEYOND
    return [] if few or not same_limit else sorted(rows, key=lambda x: x.needs or 0.0)


def _together(rule: str, rows: list[Rejected]) -> tuple[Words, Words]:
    form, sentence = _LIMITS[rule]
    span = format_range(rows[0].needs or 0.0, rows[-1].needs or 0.0, form)
    names = ", ".join(row.technique for row in rows)
    return Words(names, "strong"), Words(sentence.format(span, form(rows[0].has or 0.0)))


def _behind(r: Recommendation) -> dict[str, float]:
    """Techniques that nothing but their expected quality speaks against, and by how much."""
    points = {s.technique: s.points for s in r.standings}
    own = points.get(r.plan.technique) if r.plan else None
    if own is None:
        return {}
    return {
        row.technique: theirs - own
        for row in r.rejected
        if row.rule == "worse-here"
        and (theirs := points.get(row.technique)) is not None
        and theirs < own
    }


def _span(values: Iterable[float]) -> str:
    ordered = sorted(values, reverse=True)
    first, last = f"{ordered[0]:+.1f}", f"{ordered[-1]:+.1f}"
    return first if first == last else f"{first} to {last}"


def _unknown_last(entry: tuple[tuple[str, str], list[str]]) -> bool:
    return entry[0][1] == "quality-unknown"


def _alternatives(r: Recommendation) -> Iterator[Block]:
    if not r.alternatives or r.plan is None:
        return
    elsewhere = any(a.plan.hardware != r.plan.hardware for a in r.alternatives)
    # One plan may win by several measures.
    labels: list[tuple[Alternative, list[str]]] = []
    for a in r.alternatives:
        same = next((said for other, said in labels if other.plan == a.plan), None)
        if same is None:
            labels.append((a, [a.label]))
        else:
            same.append(a.label)
    columns = [Column(""), Column("plan", fold=True)]
    columns += [Column("on", fold=True)] if elsewhere else []
    columns += [Column("memory"), Column("time"), Column("cost"), Column("points")]
    rows: list[tuple[Words, ...]] = []
    for a, said in labels:
        e, (first, *others) = a.plan.estimate, said
        row = [
            Words(first, "strong", f"and {', '.join(others)}" if others else ""),
            Words(_differs(a.plan, r.plan)),
        ]
        row += [Words(_hardware(a.plan))] if elsewhere else []
        rows.append((*row, memory_cell(e), time_cell(e), cost_cell(e), _points(a.quality_points)))
    yield Table(tuple(columns), tuple(rows), "Alternatives")


def _differs(plan: Plan, chosen: Plan) -> str:
    """The technique, and the settings in which a plan is another one."""
    names = ("micro_batch_size", "gradient_checkpointing", "packing", "optim", "strategy")
    changed = [
        f"{name} {setting_value(plan.settings[name])}"
        for name in names
        if name in plan.settings and plan.settings[name] != chosen.settings.get(name)
    ]
    return ", ".join([name_of(plan.estimate), *changed])


def _hardware(plan: Plan) -> str:
    count = f"{plan.hardware.num_gpus} × " if plan.hardware.num_gpus > 1 else ""
    return f"{count}{plan.hardware.gpu or '–'}"


def _points(points: float | None) -> Words:
    if points is None:
        return _UNKNOWN
    return Words("same") if abs(points) < 0.05 else Words(f"{points:+.1f}")


def _evaluation(r: Recommendation) -> Iterator[Block]:
    if not r.evaluation:
        return
    by_rule: dict[str, list[Any]] = {}
    for m in r.evaluation:
        by_rule.setdefault(m.rule, []).append(m)
    items = tuple(
        f"{', '.join(m.metric for m in found)}: {rule}{_mark(found[0].evidence)}"
        for rule, found in by_rule.items()
    )
    yield Bullets("Measure before and after training", items)


def _standings(r: Recommendation) -> Iterator[Block]:
    if not r.standings:
        return
    known = [s for s in r.standings if s.points is not None]
    ordered = sorted(known, key=lambda s: -(s.points or 0.0))
    ordered += [s for s in r.standings if s.points is None]
    timed = any(s.total_seconds is not None for s in ordered)
    priced = any(s.total_usd is not None for s in ordered)
    columns = [Column("technique"), Column("points", right=True), Column("90 % interval")]
    columns += [Column("memory", right=True)]
    columns += [Column("time", right=True)] if timed else []
    columns += [Column("cost", right=True, drop=1)] if priced else []
    columns += [Column("")]
    rows: list[tuple[Words, ...]] = []
    chosen = r.plan.technique if r.plan else None
    for s in ordered:
        row = [Words(s.technique, "strong" if s.technique == chosen else "")]
        row += [*_standing_points(s), Words(format_bytes(s.device_bytes))]
        row += [_amount(s.total_seconds, format_duration)] if timed else []
        row += [_amount(s.total_usd, format_usd)] if priced else []
        rows.append((*row, _remark(s, chosen)))
    yield Table(tuple(columns), tuple(rows), "Expected quality, and what each takes at its best")
    yield paragraph(_reading(r), "dim")


def _reading(r: Recommendation) -> str:
    words = (
        "Points: accuracy points (of 100) against lora, with a 90 % interval, from published"
        " comparisons taken together; unknown: nobody compared it. Front: no other technique is as"
        " good in every column."
    )
    if any(s.recalled for s in r.standings):
        words += f" *: rests in part on a comparison that is {RECALLED}."
    return f"{words} {r.num_candidates:,} settings were compared."


def _standing_points(s: Standing) -> tuple[Words, Words]:
    if s.points is None or s.low is None or s.high is None:
        return _UNKNOWN, NONE
    if s.low == s.high:
        return Words("0"), Words("the scale's zero", "dim")
    mark = " *" if s.recalled else ""
    return Words(f"{s.points:+.1f}"), Words(f"{s.low:+.1f} to {s.high:+.1f}{mark}")


def _amount(value: float | None, form: Any) -> Words:
    return NONE if value is None else Words(form(value))


def _remark(s: Standing, chosen: str | None) -> Words:
    if s.verdict == "does_not_fit":
        return Words("does not fit", "bad")
    words = [*(["chosen"] if s.technique == chosen else []), *(["front"] if s.on_front else [])]
    return Words(", ".join(words), "good")
