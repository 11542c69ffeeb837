"""Rules as documents: a list, one in full, and all of them for docs/rules.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftadvisor.errors import quoted
from ftadvisor.render.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Table,
    Tone,
    Words,
    paragraph,
)

Row = dict[str, Any]
_TONES: dict[str, Tone] = {"recalled": "warn", "abstract": "", "opened": "good"}


def rules_document(rows: Sequence[Row], pattern: str | None = None) -> Document:
    """Id, layer, topic, reason, condition and grade, a rule a row."""
    if not rows:
        said = f" holds {quoted(pattern)}" if pattern else " is about all of that"
        return (paragraph(f"No rule{said}.", "warn"),)
    columns = (
        Column("rule"),
        Column("layer", drop=2),
        Column("topic", drop=1),
        Column("reason", fold=True),
        Column("holds where", fold=True, drop=3),
        Column("evidence"),
    )
    noun = "rule" if len(rows) == 1 else "rules"
    recalled = sum(row["evidence"] == "recalled" for row in rows)
    more = f", {recalled} of them recalled and not checked" if recalled else ""
    return (
        Table(columns, tuple(_row(row) for row in rows)),
        paragraph(f"{len(rows)} {noun}{more}; `ftadvisor explain RULE` shows one.", "dim"),
    )


def rule_document(row: Row) -> Document:
    """All that is known of one rule."""
    facts: list[tuple[str, Words]] = [
        ("holds where", Words(row["when_in_words"])),
        *(("does", Words(words)) for words in row["effects_in_words"]),
        ("figures", Words(row["number"])),
        ("source", Words(row["source"])),
        ("url", Words(row["url"])),
        ("date", Words(row["date"])),
        ("known how", _evidence(row)),
        ("confidence", Words(row["confidence"])),
        ("layer", Words(f"{row['layer']}: {row['layer_in_words']}")),
        ("topic", Words(row["topic"].replace("_", " "))),
    ]
    rows: list[tuple[Cell, ...]] = []
    for name, words in facts:
        # Several effects stand under one heading.
        said = "" if rows and rows[-1][0] == Words(name, "dim") else name
        if words.text:
            rows.append((Words(said, "dim"), words))
    blocks: list[Block] = [paragraph(row["id"], "strong"), paragraph(row["reason"])]
    blocks.append(Table((Column(""), Column("", fold=True)), tuple(rows)))
    if row["contradicted_by"]:
        others = tuple(
            Words(other["reason"], "", f"{other['id']}{_mark(other['evidence'])}")
            for other in row["contradicted_by"]
        )
        blocks.append(Bullets("Says otherwise", others, "warn"))
    return tuple(blocks)


def rules_tables(rows: Sequence[Row]) -> Document:
    """For docs/rules.md: a table for each topic."""
    by_topic: dict[str, list[Row]] = {}
    for row in rows:
        by_topic.setdefault(row["topic"], []).append(row)
    heads = ("rule", "holds where", "does", "reason and figures", "source", "evidence")
    columns = tuple(Column(head) for head in heads)
    return tuple(
        Table(columns, tuple(_full_row(row) for row in found), topic.replace("_", " "))
        for topic, found in by_topic.items()
    )


def _row(row: Row) -> tuple[Words, ...]:
    return (
        Words(row["id"], "strong"),
        Words(row["layer"]),
        Words(row["topic"].replace("_", " ")),
        Words(row["reason"]),
        Words(row["when_in_words"], "dim"),
        Words(row["evidence"], _TONES.get(row["evidence"], "")),
    )


def _full_row(row: Row) -> tuple[Words, ...]:
    number = f" {row['number']}." if row["number"] else ""
    source = f"[{row['source']}]({row['url']})" if row["url"] else row["source"]
    return (
        Words(f"`{row['id']}`"),
        Words(row["when_in_words"]),
        Words("; ".join(row["effects_in_words"])),
        Words(f"{row['reason']}{number}"),
        Words(f"{source}, {row['date']}" if row["date"] else source),
        Words(f"{row['layer']}, {row['evidence']}", "bad" if row["evidence"] == "recalled" else ""),
    )


def _evidence(row: Row) -> Words:
    return Words(row["evidence_in_words"], _TONES.get(row["evidence"], ""))


def _mark(evidence: str) -> str:
    return "; recalled, not checked" if evidence == "recalled" else ""
