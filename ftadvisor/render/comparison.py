"""A comparison as a document: a row for each value, the best of each column marked."""

from __future__ import annotations

from ftadvisor.render.cells import (
    NONE,
    assumptions_blocks,
    cost_cell,
    memory_cell,
    settings_line,
    speed_cell,
    time_cell,
    verdict_cell,
)
from ftadvisor.render.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Paragraph,
    Table,
    Words,
    paragraph,
)
from ftadvisor.render.remedies import remedies_blocks
from ftadvisor.schema.comparison import Compared, Comparison
from ftadvisor.units import format_bytes, format_count

MARK = " *"
HEADS = {"technique": "technique", "gpu": "GPU", "model": "model"}


def comparison_document(found: Comparison) -> Document:
    """All that there is to say about rows that differ in one thing."""
    estimates = [row.estimate for row in found.rows]
    shared = Paragraph((_heading(found), Words(settings_line(estimates), "dim")))
    blocks: list[Block] = [shared, _table(found)]
    if found.best:
        blocks.append(paragraph("* best of its column among what fits or is tight", "dim"))
    if found.remedies:
        least = min(found.rows, key=lambda row: row.estimate.memory.device_bytes).name
        blocks.append(paragraph(f"Nothing fits: {least} needs least.", "bad"))
        blocks += remedies_blocks(found.remedies, least)
    assumed = assumptions_blocks(estimates, [row.name for row in found.rows])
    items = [item for block in assumed if isinstance(block, Bullets) for item in block.items]
    items += found.assumptions
    return (*blocks, Bullets("Assumed", tuple(items))) if items else tuple(blocks)


def _heading(found: Comparison) -> Words:
    """What all rows share."""
    first = found.rows[0].estimate
    words: list[str] = []
    if found.axis != "model":
        words.append(f"{first.model}, {format_count(first.num_params)} parameters")
    if found.axis != "technique":
        words.append(first.technique)
    if found.axis != "gpu" and first.gpu and first.gpu_usable_bytes:
        count = f"{first.num_gpus} × " if first.num_gpus > 1 else ""
        each = " each" if first.num_gpus > 1 else ""
        usable = format_bytes(first.gpu_usable_bytes)
        words.append(f"on {count}{first.gpu} with {usable} usable{each}")
    return Words(", ".join(words), "strong")


def _table(found: Comparison) -> Table:
    on_gpu = any(row.estimate.verdict for row in found.rows)
    priced = any(row.estimate.cost for row in found.rows)
    columns = [Column(HEADS[found.axis], fold=found.axis == "model")]
    columns += [Column("verdict")] if on_gpu else []
    columns += [Column("peak memory")]
    columns += [Column("tokens/s", drop=1), Column("time")] if on_gpu else []
    columns += [Column("cost")] if priced else []
    columns += [Column("points over lora")] if found.axis == "technique" else []
    rows: list[tuple[Cell, ...]] = []
    for row in found.rows:
        e = row.estimate
        cells: list[Cell] = [Words(row.name, "strong")]
        cells += [verdict_cell(e)] if on_gpu else []
        cells += [_marked(memory_cell(e), found, "memory", row)]
        if on_gpu:
            cells.append(_marked(speed_cell(e), found, "tokens_per_second", row))
            cells.append(_marked(time_cell(e), found, "time", row))
        cells += [_marked(cost_cell(e), found, "cost", row)] if priced else []
        if found.axis == "technique":
            cells.append(_marked(_quality(row), found, "quality", row))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def _marked(words: Words, found: Comparison, measure: str, row: Compared) -> Words:
    if row.name not in found.best.get(measure, ()):
        return words
    return words._replace(text=words.text + MARK, tone="good")


def _quality(row: Compared) -> Words:
    if row.quality is None:
        return Words("unknown", "dim")
    if row.name == "lora":
        return Words("0")
    q = row.quality
    return Words(f"{q.points:+.1f}", "", f"{q.low:+.1f} to {q.high:+.1f}") if q.rules else NONE
