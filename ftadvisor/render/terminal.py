"""Documents to a terminal, with rich: colours where they are wanted, plain text when piped."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from ftadvisor.render import parts as bars
from ftadvisor.render.document import (
    Block,
    Bullets,
    Cell,
    Document,
    Legend,
    Paragraph,
    Parts,
    Table,
    Tone,
    Words,
    words_of,
)

STYLES: dict[Tone, str] = {
    "": "",
    "good": "green",
    "warn": "yellow",
    "bad": "red",
    "dim": "dim",
    "strong": "bold",
}
PIPED_WIDTH = 160
READING_WIDTH = 100
"""Sentences are not set wider than this."""
ONE_LINE_WIDTH = 130
"""From this width on a row takes one line."""
_COLUMNS_WIDTH = 70
"""Below it nothing is left out to keep columns: each row becomes a list."""
_GAP = 2
_INDENT = 2
_NARROWEST_BAR, _WIDEST_BAR = 12, 36
_NARROWEST_FOLD = 20
_FIGURES_WIDTH = 40


def print_document(document: Document, console: Console | None = None) -> None:
    """Print the blocks, a blank line between them."""
    console = console or make_console()
    with console.capture() as captured:
        for renderable in renderables(document, console):
            console.print(renderable)
    # Tables pad their lines, which nobody wants in a file.
    lines = [line.rstrip() for line in captured.get().splitlines()]
    console.file.write("\n".join([*lines, ""]))


def renderables(document: Document, console: Console) -> Iterator[RenderableType]:
    """The blocks as rich prints them, a blank line between them."""
    bars_shown = True
    for number, block in enumerate(document):
        if isinstance(block, Table):
            bars_shown = _shows_bars(block, console)
        if isinstance(block, Legend) and not bars_shown:
            continue
        if number:
            yield Text("")
        yield _renderable(block, console)


def make_console() -> Console:
    """The console of standard output, as wide as COLUMNS or the terminal says; piped, 160."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = PIPED_WIDTH
    return console


def _renderable(block: Block, console: Console) -> RenderableType:
    width = min(console.width, READING_WIDTH)
    match block:
        case Table():
            return _table(block, console)
        case Legend():
            return _legend(block, console)
        case Paragraph():
            lines = [_words(line, one_line=True) for line in block.lines]
            return _wrapped(Text("\n").join(lines), width)
        case Bullets():
            return _bullets(block, width)


def _wrapped(text: Text, width: int) -> RichTable:
    grid = RichTable.grid()
    grid.add_column(max_width=width, overflow="fold")
    grid.add_row(text)
    return grid


def _bullets(block: Bullets, width: int) -> RichTable:
    grid = RichTable.grid(padding=(0, 1, 0, 0))
    grid.title = Text(block.title, style=STYLES[block.tone] or "bold") if block.title else None
    grid.title_justify = "left"
    grid.add_column(width=1)
    grid.add_column(max_width=width - 2, overflow="fold")
    for item in block.items:
        grid.add_row("-", _words(words_of(item), one_line=False))
    return grid


def _legend(block: Legend, console: Console) -> Text:
    text = Text()
    for name in block.names:
        look = bars.LOOKS[name]
        text.append(_sign(look.sign, look.letter, console), style=look.colour)
        text.append(f" {name}  ", style="dim")
    if block.limit:
        text.append(_sign(bars.LIMIT_SIGN, bars.LIMIT_LETTER, console), style="bold")
        text.append(f" {block.limit}", style="dim")
    return text


def _table(table: Table, console: Console) -> RenderableType:
    one_line, found = _fitted(table, console.width)
    if found is None:
        return _row_by_row(table, console)
    kept, widths = found
    grid = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    grid.show_header = any(column.title for column in table.columns)
    if table.title:
        grid.title = Text(table.title, style="bold")
        grid.title_justify = "left"
    for index in kept:
        column = table.columns[index]
        grid.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            width=widths[index],
            no_wrap=not column.fold,
            overflow="fold",
        )
    for row in table.rows:
        grid.add_row(*(_cell(row[i], widths[i], console, one_line=one_line) for i in kept))
    return grid


def _row_by_row(table: Table, console: Console) -> RenderableType:
    """Where the columns do not fit beside each other: each row as a list, a fact a line."""
    blocks: list[RenderableType] = []
    if table.title:
        blocks.append(Text(table.title, style="bold"))
    columns = table.columns[1:]
    titles = min(max((cell_len(c.title) for c in columns), default=0), console.width // 2)
    free = max(1, console.width - _INDENT - (titles + _GAP if titles else 0))
    for number, (first, *cells) in enumerate(table.rows):
        if number and titles:
            blocks.append(Text(""))
        blocks.append(_cell(first, free, console, one_line=True))
        grid = RichTable.grid(padding=(0, _GAP, 0, 0))
        if titles:
            grid.add_column(width=titles, style="dim")
        grid.add_column(width=min(free, READING_WIDTH), overflow="fold")
        for column, cell in zip(columns, cells, strict=True):
            if isinstance(cell, Words):
                value = _words(cell, one_line=True)
            else:
                bar = _bar(cell, min(free, _WIDEST_BAR), console)
                value = Text("\n").join([bar, Text(bars.sentence(bars.figures(cell)))])
            if value.plain:
                grid.add_row(*([Text(column.title)] if titles else []), value)
        blocks.append(Padding(grid, (0, 0, 0, _INDENT)))
    return Group(*blocks)


def _fitted(table: Table, width: int) -> tuple[bool, tuple[list[int], dict[int, int]] | None]:
    """Whether a row takes one line, and its layout: two lines come before fewer columns."""
    if width >= ONE_LINE_WIDTH:
        found = _layout(table, width, one_line=True)
        if found and len(found[0]) == len(table.columns):
            return True, found
    return False, _layout(table, width, one_line=False)


def _layout(table: Table, width: int, *, one_line: bool) -> tuple[list[int], dict[int, int]] | None:
    """The columns that are shown, by index, and how many characters each gets.

    None: those that must be shown do not fit.
    """
    least: list[int] = []
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        natural = max([cell_len(column.title), *(_natural(cell, one_line) for cell in cells)])
        least.append(min(natural, _NARROWEST_FOLD) if column.fold else natural)
    kept = list(range(len(table.columns)))
    while sum(least[i] + _GAP for i in kept) - _GAP > width:
        droppable = [i for i in kept if table.columns[i].drop]
        if not droppable or width < _COLUMNS_WIDTH:
            return None
        kept.remove(max(droppable, key=lambda i: table.columns[i].drop))
    widths = {i: least[i] for i in kept}
    free = width - sum(least[i] + _GAP for i in kept) + _GAP
    elastic = [i for i in kept if _elastic(table, i)]
    for place, index in enumerate(elastic):
        share = max(0, free) // (len(elastic) - place)
        cells = [row[index] for row in table.rows]
        most = max([cell_len(table.columns[index].title), *(_most(c, one_line) for c in cells)])
        most = min(most, table.columns[index].widest or most)
        extra = min(share, max(0, most - widths[index]))
        widths[index] += extra
        free -= extra
    return kept, widths


def _shows_bars(table: Table, console: Console) -> bool:
    """Whether its bars, if it has any, are among the columns that there is room for."""
    _, found = _fitted(table, console.width)
    kept = range(len(table.columns)) if found is None else found[0]
    return any(isinstance(row[index], Parts) for row in table.rows for index in kept)


def _elastic(table: Table, index: int) -> bool:
    return table.columns[index].fold or any(isinstance(row[index], Parts) for row in table.rows)


def _natural(cell: Cell, one_line: bool) -> int:
    if isinstance(cell, Parts):
        return _NARROWEST_BAR + (_GAP + _FIGURES_WIDTH if one_line else 0)
    return max(cell_len(line) for line in _words(cell, one_line=one_line).plain.split("\n"))


def _most(cell: Cell, one_line: bool) -> int:
    if isinstance(cell, Parts):
        return _WIDEST_BAR + (_GAP + _FIGURES_WIDTH if one_line else 0)
    return _natural(cell, one_line)


def _cell(cell: Cell, width: int, console: Console, *, one_line: bool) -> Text:
    if isinstance(cell, Words):
        return _words(cell, one_line=one_line)
    if not one_line:
        numbers = bars.sentence(bars.figures(cell, width))
        return Text("\n").join([_bar(cell, width, console), Text(numbers, style="dim")])
    numbers = bars.sentence(bars.figures(cell, _FIGURES_WIDTH))
    return Text("  ").join([_bar(cell, width - _FIGURES_WIDTH - _GAP, console), Text(numbers)])


def _words(words: Words, *, one_line: bool) -> Text:
    text = Text(words.text, style=STYLES[words.tone])
    if words.below:
        text.append(f" ({words.below})" if one_line else f"\n{words.below}", style="dim")
    return text


def _bar(cell: Parts, width: int, console: Console) -> Text:
    text = Text(style=STYLES[cell.tone])
    for name, length in bars.runs(cell, width):
        if name == "limit":
            text.append(_sign(bars.LIMIT_SIGN, bars.LIMIT_LETTER, console), style="bold")
        elif name == "beyond":
            text.append(_sign(bars.BEYOND_SIGN, bars.BEYOND_LETTER, console), style="bold red")
        elif name:
            look = bars.LOOKS[name]
            text.append(_sign(look.sign, look.letter, console) * length, style=look.colour)
        else:
            text.append(" " * length)
    return text


def _sign(sign: str, letter: str, console: Console) -> str:
    return sign if console.encoding.lower().startswith("utf") else letter
