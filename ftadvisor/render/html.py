"""Documents to HTML: one element with its own style, for light pages and dark ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

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
    Words,
    words_of,
)

STYLE = """
.ftadvisor{max-width:64rem;font:14px/1.5 system-ui,sans-serif;color:inherit}
.ftadvisor>*{margin:0 0 1em}
.ftadvisor h4{margin:0 0 .3em;font-size:1em;font-weight:600}
.ftadvisor p{margin:0}
.ftadvisor ul{margin:0;padding-left:1.2em}
.ftadvisor li+li{margin-top:.25em}
.ftadvisor .scroll{overflow-x:auto}
.ftadvisor table{border-collapse:collapse;font-size:13px;border:0;margin:0}
.ftadvisor th,.ftadvisor td{padding:.25em 1.2em .25em 0;text-align:left;vertical-align:top;
border:0;border-bottom:1px solid rgba(128,128,128,.25);background:none;white-space:nowrap;
font-variant-numeric:tabular-nums;color:inherit}
.ftadvisor th{font-weight:normal;opacity:.65}
.ftadvisor .fold{white-space:normal;min-width:10em;max-width:44em}
.ftadvisor .fold:first-child{max-width:18em}
.ftadvisor .right{text-align:right}
.ftadvisor .strong{font-weight:600}
.ftadvisor .dim,.ftadvisor small{opacity:.65}
.ftadvisor small{font-size:.9em;display:block}
.ftadvisor .good{color:#2f9e5f}
.ftadvisor .warn{color:#b9770e}
.ftadvisor .bad{color:#d64541}
.ftadvisor ul.warn{padding:.4em .8em .4em 1.8em;border-left:3px solid #b9770e;color:inherit}
.ftadvisor ul.warn .warn{color:inherit}
.ftadvisor .bar{position:relative;display:flex;height:1.1em;width:20em;max-width:45vw;
background:rgba(128,128,128,.18)}
.ftadvisor .bar i{display:block;height:100%}
.ftadvisor .bar b{position:absolute;top:-.15em;bottom:-.15em;width:2px;background:currentColor}
.ftadvisor .key i{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 1em}
.ftadvisor .key i:first-child{margin-left:0}
.ftadvisor .key b{display:inline-block;width:2px;height:1em;margin:0 .35em 0 1em;
background:currentColor;vertical-align:middle}
"""


def html(document: Document) -> str:
    """The blocks in one element; every text is escaped."""
    return f'<div class="ftadvisor"><style>{STYLE}</style>\n{html_blocks(document)}\n</div>'


def html_blocks(document: Document) -> str:
    """The blocks alone, for an element of that class."""
    return "\n".join(f"<div>{''.join(_block(block))}</div>" for block in document)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table():
            yield from _table(block)
        case Paragraph():
            yield from (f"<p>{_words(line)}</p>" for line in block.lines)
        case Bullets():
            yield _title(block.title)
            items = "".join(f"<li>{_words(words_of(item))}</li>" for item in block.items)
            yield f'<ul class="{block.tone}">{items}</ul>' if block.tone else f"<ul>{items}</ul>"
        case Legend():
            yield _legend(block)


def _title(title: str) -> str:
    return f"<h4>{escape(title)}</h4>" if title else ""


def _table(table: Table) -> Iterator[str]:
    yield _title(table.title)
    looks = [
        " ".join(name for name, on in (("right", c.right), ("fold", c.fold)) if on)
        for c in table.columns
    ]
    heads = (
        _tag("th", look, escape(c.title)) for c, look in zip(table.columns, looks, strict=True)
    )
    head = f"<thead>{_row(heads)}</thead>" if any(c.title for c in table.columns) else ""
    yield f'<div class="scroll"><table>{head}<tbody>'
    for row in table.rows:
        yield _row(_tag("td", look, _cell(cell)) for cell, look in zip(row, looks, strict=True))
    yield "</tbody></table></div>"


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _tag(name: str, look: str, inside: str) -> str:
    attribute = f' class="{look}"' if look else ""
    return f"<{name}{attribute}>{inside}</{name}>"


def _cell(cell: Cell) -> str:
    return _bar(cell) if isinstance(cell, Parts) else _words(cell)


def _words(words: Words) -> str:
    text = escape(words.text)
    if words.tone:
        text = _tag("span", words.tone, text)
    return f"{text}<small>{escape(words.below)}</small>" if words.below else text


def _bar(cell: Parts) -> str:
    """The parts as a bar, and their figures below it."""
    pieces = "".join(
        f'<i title="{escape(name)}" '
        f'style="width:{width:.2f}%;background:{bars.LOOKS[name].hex}"></i>'
        for name, width in _widths(cell)
    )
    if cell.limit is not None:
        pieces += f'<b style="left:{min(99.0, 100 * cell.limit / cell.scale):.2f}%"></b>'
    figures = escape(bars.sentence(bars.figures(cell)))
    return f'<div class="bar">{pieces}</div><small>{figures}</small>'


def _widths(cell: Parts) -> Iterator[tuple[str, float]]:
    """Percent of the bar that each part takes; what runs out of it is cut off."""
    free = 100.0
    for name, size in cell.parts:
        width = min(free, 100 * size / cell.scale)
        free -= width
        yield name, width


def _legend(legend: Legend) -> str:
    keys = "".join(
        f'<i style="background:{bars.LOOKS[name].hex}"></i><span class="dim">{escape(name)}</span>'
        for name in legend.names
    )
    limit = f'<b></b><span class="dim">{escape(legend.limit)}</span>' if legend.limit else ""
    return f'<p class="key">{keys}{limit}</p>'
