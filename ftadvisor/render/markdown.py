"""Documents to Markdown: what the documents quote from the program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ftadvisor.render.document import (
    Bullets,
    Cell,
    Document,
    Legend,
    Paragraph,
    Parts,
    Table,
    Words,
    words_of,
)
from ftadvisor.units import format_bytes

WIDTH = 100


def markdown(document: Document) -> str:
    """The blocks, a blank line between them; a table's title becomes a line in bold."""
    return "\n\n".join("\n".join(_lines(block)) for block in document)


def _lines(block: Table | Paragraph | Bullets | Legend) -> Iterable[str]:
    match block:
        case Table():
            yield from _table(block)
        case Paragraph():
            yield from (_filled(line.text) for line in block.lines)
        case Bullets():
            yield from (f"**{block.title}**", "") if block.title else ()
            for item in block.items:
                yield _filled(f"- {_text(words_of(item))}", "  ")
        case Legend():
            yield ", ".join(block.names)


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _table(table: Table) -> Iterable[str]:
    if table.title:
        yield from (f"**{_sentence(table.title)}**", "")
    yield _row(column.title for column in table.columns)
    yield _row("--:" if column.right else "---" for column in table.columns)
    for row in table.rows:
        yield _row(_cell(cell) for cell in row)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Parts):
        return ", ".join(f"{name} {format_bytes(size)}" for name, size in cell.parts)
    text = _text(cell).replace("|", "\\|")
    return f"**{text}**" if text and cell.tone in ("strong", "bad") else text


def _text(words: Words) -> str:
    return f"{words.text} ({words.below})" if words.below else words.text


def _sentence(title: str) -> str:
    return title[:1].upper() + title[1:]
