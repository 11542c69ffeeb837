"""Rows of classification: a text with a class, or tokens with a class each."""

from __future__ import annotations

from typing import Any, cast

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.sources.datasets.blocks import Fault
from ftadvisor.sources.datasets.formats import Layout

Row = dict[str, Any]
CLASSIFYING = ("seq_cls", "token_cls")
HEADS = {"seq_cls": "ForSequenceClassification", "token_cls": "ForTokenClassification"}
"""How the class of a checkpoint with the objective's head ends."""
TOKENS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "pos_tags", "labels")
NO_CLASS = ("-100", "-1", "nan")
"""What losses leave out, in rows that are pieces of words already; what the datasets library writes
where there is no label."""
MOST_CLASSES = 1000
"""More of them are no classes but numbers or names."""


def labelled(row: Row, layout: Layout) -> Row | None:
    """`text`, `label`, and `second` where two texts are compared."""
    if layout.format != "labelled" or layout.label is None:
        return None
    label = row[layout.label]
    if isinstance(label, list | dict):
        return None
    return {**{part.role: row.get(part.column) for part in layout.parts}, "label": _name(label)}


def tagged(row: Row) -> Row | Fault:
    """`tokens` and `labels`, as many of each."""
    tokens = next((row[name] for name in TOKENS if name in row), None)
    tags = next((row[name] for name in TAGS if name in row), None)
    if not isinstance(tokens, list) or not isinstance(tags, list):
        return Fault(f"has the columns {', '.join(map(quoted, row))}")
    words, names = cast("list[Any]", tokens), cast("list[Any]", tags)
    if not words or len(words) != len(names):
        return Fault(f"has {len(words)} tokens and {len(names)} tags")
    for tag in names:
        if not isinstance(tag, str | int | float) or _name(tag) in NO_CLASS:
            return Fault(f"has the tag {quoted(cast('object', tag))}, which is no class of a word")
    return {"tokens": [str(word) for word in words], "labels": [_name(tag) for tag in names]}


def seen_only(train: list[Row], held_out: list[Row]) -> tuple[list[Row], list[Row]]:
    """The split with rows of classes that only the held-out part has moved to the other."""
    known = {name for row in train for name in _names(row)}
    unseen = [row for row in held_out if not known.issuperset(_names(row))]
    return train + unseen, [row for row in held_out if known.issuperset(_names(row))]


def classes_of(train: list[Row], held_out: list[Row], file: str) -> tuple[str, ...]:
    """The classes in the order of their numbers, or of the alphabet.

    Raises DataFileError where they cannot be classes, or held-out rows have others.
    """
    found = {name for row in train for name in _names(row)}
    if len(found) < 2:
        raise DataFileError(
            file, None, "label", f"is {quoted(next(iter(found)))} in all rows",
            "rows of at least two classes",
        )  # fmt: skip
    if any("." in name and _is_number(name) for name in found) or len(found) > MOST_CLASSES:
        raise DataFileError(
            file, None, "label", f"has {len(found):,} values, as numbers have that are measured",
            "classes: regression is not supported",
        )  # fmt: skip
    unseen = {name for row in held_out for name in _names(row)} - found
    if unseen:
        raise DataFileError(
            file, None, "label", f"is {quoted(min(unseen))} in rows that are held out, in none that"
            " is trained on", "more rows of that class, or none",
        )  # fmt: skip
    return tuple(sorted(found, key=lambda name: (int(name) if name.isdigit() else 0, name)))


def as_numbered(labels: tuple[str, ...], own: dict[str, Any] | None) -> tuple[str, ...]:
    """The classes in the order of a checkpoint's own head, all of it, where they are its.

    `own`: its label2id; None: it has no head. In any other order its weights would stand for other
    classes than the report says.
    """
    if own is None:
        return labels
    if {*labels} <= own.keys():
        return tuple(sorted(own, key=lambda name: int(own[name])))
    numbers = tuple(str(i) for i in range(len(own)))
    return numbers if {*labels} <= {*numbers} else labels


def own_classes(config: dict[str, Any], objective: str) -> dict[str, Any] | None:
    """label2id of a checkpoint that has the objective's head; None: it has none."""
    made_for = str(next(iter(config.get("architectures") or []), ""))
    if not made_for.endswith(HEADS.get(objective, "no head")):
        return None
    return cast("dict[str, Any]", config.get("label2id") or {"LABEL_0": 0, "LABEL_1": 1})


def _names(row: Row) -> list[str]:
    return row["labels"] if "labels" in row else [row["label"]]


def _name(label: Any) -> str:
    """1, 1.0 and "1" are one class."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
