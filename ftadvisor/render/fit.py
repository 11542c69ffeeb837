"""The reverse questions' answers as documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ftadvisor.render.cells import (
    NONE,
    VERDICTS,
    assumptions_blocks,
    gpus_named,
    memory_cell,
    name_of,
    settings_line,
    speed_cell,
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
    words_of,
)
from ftadvisor.render.remedies import remedies_blocks
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.fit import Batches, Fit, LargestBatch, LargestModel
from ftadvisor.units import GIB, format_bytes, format_count, format_usd

SIZES_SHOWN = 12
"""Sizes of cards that are listed; --json has all cards."""


def fit_document(found: Fit) -> Document:
    """All that there is to say about one reverse question."""
    if found.model is None:
        blocks = _models(found)
    elif found.gpu is None:
        blocks = _cards(found)
    else:
        blocks = _batches(found)
    if found.remedies:
        blocks.append(paragraph("Nothing fits.", "bad"))
        blocks += remedies_blocks(found.remedies, found.model or "the smallest model")
    return tuple(blocks)


def _models(found: Fit) -> list[Block]:
    estimates = [e for row in found.models for e in (row.fits, row.tight) if e]
    blocks: list[Block] = [_heading(estimates, f"The largest models for {_on(estimates, found)}")]
    columns = (
        Column("technique"),
        Column("largest that fits"),
        Column("parameters", right=True),
        Column("peak memory"),
        Column("larger, but tight", fold=True, drop=1),
    )
    rows = tuple(_model_row(row) for row in found.models)
    blocks.append(Table(columns, rows))
    return [*blocks, *_assumed(estimates, found, timed=False)]


def _model_row(row: LargestModel) -> tuple[Cell, ...]:
    either = row.fits or row.tight
    name = name_of(either) if either else row.technique
    tight = (
        Words(f"{row.tight.model} ({format_count(row.tight.num_params)})", "warn")
        if row.tight
        else NONE
    )
    if row.fits is None:
        return Words(name, "strong"), Words("none", "bad"), NONE, NONE, tight
    e = row.fits
    parameters = Words(format_count(e.num_params))
    return Words(name, "strong"), Words(e.model), parameters, memory_cell(e), tight


def _cards(found: Fit) -> list[Block]:
    estimates = [*found.cards, *found.tight_cards]
    several = len({name_of(e) for e in found.cards}) > 1
    size = f", {format_count(estimates[0].num_params)} parameters" if estimates else ""
    title = f"The smallest cards for {found.model}{size}"
    title += f", {name_of(estimates[0])}" if estimates and not several else ""
    blocks: list[Block] = [_heading(estimates, title)]
    groups = _sizes(found.cards)
    columns = [Column("technique")] if several else []
    columns += [
        Column("cards", fold=True),
        Column("usable", right=True),
        Column("peak memory of each"),
        Column("cheapest, an hour", fold=True),
    ]
    rows = tuple(_card_row(group, several=several) for group in groups[:SIZES_SHOWN])
    if rows:
        blocks.append(Table(tuple(columns), rows))
    if len(groups) > SIZES_SHOWN:
        blocks.append(paragraph(f"{len(groups) - SIZES_SHOWN} more sizes: --json has all", "dim"))
    if found.tight_cards:
        names = [_cards_named(e.num_gpus, e.gpu or "", "") for e in found.tight_cards]
        blocks.append(paragraph(f"Tight: {gpus_named(names)} may run out of memory.", "warn"))
    return [*blocks, *_assumed(estimates, found, timed=False)]


def _sizes(found: Iterable[Estimate]) -> list[list[Estimate]]:
    """Cards of one technique, number and size together; their order is kept."""
    groups: dict[tuple[str, int, int], list[Estimate]] = {}
    for e in found:
        size = round((e.gpu_usable_bytes or 0) / GIB)
        groups.setdefault((name_of(e), e.num_gpus, size), []).append(e)
    return list(groups.values())


def _card_row(group: Sequence[Estimate], *, several: bool) -> tuple[Cell, ...]:
    first = group[0]
    names = gpus_named([e.gpu or "" for e in group])
    priced = [(e.cost.usd_per_gpu_hour * e.num_gpus, e) for e in group if e.cost]
    price = NONE
    if priced:
        usd, cheapest = min(priced, key=lambda pair: pair[0])
        assert cheapest.cost is not None
        price = Words(f"{format_usd(usd)} {cheapest.gpu}, {cheapest.cost.provider}")
    cells: tuple[Cell, ...] = (
        Words(_cards_named(first.num_gpus, names, str(first.settings["strategy"]))),
        Words(format_bytes(first.gpu_usable_bytes or 0)),
        memory_cell(first),
        price,
    )
    return (Words(name_of(first), "strong"), *cells) if several else cells


def _cards_named(count: int, names: str, strategy: str) -> str:
    many = f"{count} × " if count > 1 else ""
    shared = f" with {strategy}" if count > 1 and strategy else ""
    return f"{many}{names}{shared}"


def _batches(found: Fit) -> list[Block]:
    cells = [c for row in found.batches for c in (*row.lengths, row.longest) if c]
    estimates = [c.estimate for c in cells if c.estimate]
    title = f"{found.model} on {_on(estimates, found)}"
    if len(found.batches) == 1:
        row = found.batches[0]
        blocks: list[Block] = [_heading(estimates, f"{title}, {_technique(row)}")]
        blocks += [_lengths(row)] if row.lengths else []
        blocks.append(paragraph(_longest(row)))
    else:
        blocks = [_heading(estimates, title), _grid(found.batches)]
        note = "The largest micro_batch_size at each max_length; – does not fit."
        blocks.append(paragraph(note, "dim"))
    return [*blocks, *_assumed(estimates, found)]


def _lengths(row: Batches) -> Table:
    """As far as the first length at which nothing fits."""
    columns = (
        Column("max_length", right=True),
        Column("largest micro_batch_size", right=True),
        Column("tight up to", right=True),
        Column("peak memory"),
        Column("tokens/s", right=True, drop=1),
    )
    last = next((i for i, c in enumerate(row.lengths) if not c.tight_micro_batch_size), None)
    shown = row.lengths if last is None else row.lengths[: last + 1]
    return Table(columns, tuple(_length_row(cell) for cell in shown))


def _length_row(cell: LargestBatch) -> tuple[Cell, ...]:
    tight, e = cell.tight_micro_batch_size, cell.estimate
    size = Words(str(cell.micro_batch_size), "good") if e else Words("does not fit", "bad")
    if not e and tight:
        size = Words(*VERDICTS["tight"])
    above = Words(str(tight), "warn") if tight > cell.micro_batch_size else NONE
    memory, speed = (memory_cell(e), speed_cell(e)) if e else (NONE, NONE)
    return Words(f"{cell.max_length:,}"), size, above, memory, speed


def _longest(row: Batches) -> str:
    if row.longest is None:
        tight = row.tight_max_length
        return f"Tight up to max_length {tight:,}." if tight else "No max_length fits."
    said = f"Longest max_length at micro_batch_size {row.longest.micro_batch_size}:"
    said += f" {row.longest.max_length:,}"
    if row.tight_max_length > row.longest.max_length:
        said += f", tight up to {row.tight_max_length:,}"
    return f"{said}."


def _grid(found: Sequence[Batches]) -> Table:
    """Techniques below each other, lengths beside each other as far as anything fits."""
    lengths = sorted({c.max_length for b in found for c in b.lengths if c.micro_batch_size})
    columns = [Column("technique")]
    columns += [Column(f"{length:,}", right=True) for length in lengths]
    columns += [Column("longest", right=True)]
    rows: list[tuple[Cell, ...]] = []
    for row in found:
        sizes = {c.max_length: c.micro_batch_size for c in row.lengths}
        cells = [Words(str(size)) if (size := sizes.get(n)) else NONE for n in lengths]
        longest = Words(f"{row.longest.max_length:,}") if row.longest else NONE
        rows.append((Words(_technique(row), "strong"), *cells, longest))
    return Table(tuple(columns), tuple(rows))


def _technique(row: Batches) -> str:
    usual = ("none", "nf4") if row.technique == "qlora" else ("none",)
    return row.technique if row.quantization in usual else f"{row.technique} {row.quantization}"


def _heading(estimates: Sequence[Estimate], title: str) -> Paragraph:
    lines = [Words(title, "strong")]
    lines += [Words(settings_line(estimates), "dim")] if estimates else []
    return Paragraph(tuple(lines))


def _on(estimates: Sequence[Estimate], found: Fit) -> str:
    if not estimates:
        return found.gpu or ""
    first = estimates[0]
    count = f"{first.num_gpus} × " if first.num_gpus > 1 else ""
    each = " each" if first.num_gpus > 1 else ""
    return f"{count}{first.gpu} with {format_bytes(first.gpu_usable_bytes or 0)} usable{each}"


def _assumed(estimates: Sequence[Estimate], found: Fit, *, timed: bool = True) -> list[Block]:
    """What holds for all rows; what holds for some stands in their estimates (--json)."""
    blocks = assumptions_blocks(estimates) if estimates else []
    items = [words_of(i).text for b in blocks if isinstance(b, Bullets) for i in b.items]
    shared = [item for item in items if all(item in e.assumptions for e in estimates)]
    # Where neither is shown, what they are for says nothing.
    of_time = () if timed else ("time and cost", "no cost")
    said = [s for s in dict.fromkeys([*found.assumptions, *shared]) if not s.startswith(of_time)]
    return [Bullets("Assumed", tuple(said))] if said else []
