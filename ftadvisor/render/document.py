"""What is said, apart from where: blocks that terminal, Markdown and HTML write their own way."""

from __future__ import annotations

from typing import Literal, NamedTuple

Tone = Literal["", "good", "warn", "bad", "dim", "strong"]


class Words(NamedTuple):
    """Text in one tone; `below` stands on a second line where lines are short, else behind it."""

    text: str
    tone: Tone = ""
    below: str = ""


class Parts(NamedTuple):
    """A quantity and what it consists of: a bar, and the figures beside or below it."""

    parts: tuple[tuple[str, float], ...]
    """(name, bytes), in the order of the bar."""
    limit: float | None
    """Where the bar must end [bytes]; None: no such place."""
    scale: float
    """Bytes that the whole width stands for: the same in all rows."""
    tone: Tone = ""


Cell = Words | Parts


class Column(NamedTuple):
    """Head of a column."""

    title: str
    right: bool = False
    fold: bool = False
    """Its text may take several lines; the others' is kept whole."""
    drop: int = 0
    """Columns with the highest number are left out first where the width does not suffice; 0: this
    one never is."""
    widest: int = 0
    """Of a column that folds: characters that it is not made wider than; 0: no such limit."""


class Table(NamedTuple):
    """Rows under columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""


class Paragraph(NamedTuple):
    """A few sentences, one after another on lines of their own where each has its tone."""

    lines: tuple[Words, ...]


class Bullets(NamedTuple):
    """A list with a heading."""

    title: str
    items: tuple[str | Words, ...]
    tone: Tone = ""


class Legend(NamedTuple):
    """What the colours and signs of bars mean."""

    names: tuple[str, ...]
    limit: str
    """What the mark at the limit means; empty: there is none."""


Block = Table | Paragraph | Bullets | Legend
Document = tuple[Block, ...]


def words_of(item: str | Words) -> Words:
    """An item as text with a tone."""
    return item if isinstance(item, Words) else Words(item)


def paragraph(text: str, tone: Tone = "") -> Paragraph:
    """One sentence, or some that belong together."""
    return Paragraph((Words(text, tone),))
