"""Estimates as a document: one row each, then what was assumed and what would help."""

from __future__ import annotations

from collections.abc import Sequence

from ftadvisor.render.cells import (
    VERDICTS,
    assumptions_blocks,
    cost_cell,
    gpus_named,
    memory_cell,
    name_of,
    settings_line,
    speed_cell,
    time_cell,
    verdict_cell,
)
from ftadvisor.render.document import (
    Block,
    Cell,
    Column,
    Document,
    Legend,
    Paragraph,
    Parts,
    Table,
    Words,
    paragraph,
)
from ftadvisor.render.parts import CACHE, grouped
from ftadvisor.render.remedies import remedies_blocks
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.remedy import Remedy
from ftadvisor.units import format_bytes, format_count

_BEYOND_LIMIT = 2.0
"""A bar shows at most twice what the card has; what is larger runs out of it."""
_BEHIND_LIMIT = 1.05


def estimates_document(found: Sequence[Estimate], remedies: Sequence[Remedy] = ()) -> Document:
    """All that there is to say about estimates of one model on one kind of GPU.

    `remedies` are what would help, for the reader of a table in which nothing fits.
    """
    blocks: list[Block] = [_heading(found), _table(found), legend(found)]
    blocks += _warnings(found, remedies)
    blocks += assumptions_blocks(found)
    return tuple(blocks)


def legend(found: Sequence[Estimate]) -> Legend:
    """The parts that the bars of these estimates have."""
    names = {name for estimate in found for name, _ in _bar_parts(estimate)}
    limit = "usable" if found[0].gpu_usable_bytes else ""
    return Legend(tuple(name for name, _ in grouped([(name, 1.0) for name in names])), limit)


def bar(estimate: Estimate) -> Parts:
    """The peak's parts, on a scale of its own."""
    return Parts(_bar_parts(estimate), estimate.gpu_usable_bytes, _scale([estimate]))


def subject(estimate: Estimate) -> str:
    """The model and what it runs on."""
    words = f"{estimate.model}, {format_count(estimate.num_params)} parameters"
    if estimate.gpu is None or estimate.gpu_usable_bytes is None:
        return words
    count = f"{estimate.num_gpus} × " if estimate.num_gpus > 1 else ""
    each = " each" if estimate.num_gpus > 1 else ""
    usable = format_bytes(estimate.gpu_usable_bytes)
    return f"{words}, on {count}{estimate.gpu} with {usable} usable{each}"


def _heading(found: Sequence[Estimate]) -> Paragraph:
    return Paragraph((Words(subject(found[0]), "strong"), Words(settings_line(found), "dim")))


def _table(found: Sequence[Estimate]) -> Table:
    """A row per technique: those that fit first, then as they come, the best known first."""
    on_gpu = any(estimate.verdict for estimate in found)
    timed = any(estimate.time for estimate in found)
    priced = any(estimate.cost for estimate in found)
    columns = [Column("technique")]
    columns += [Column("verdict")] if on_gpu else []
    columns += [Column("peak memory"), Column("by part, in GiB", drop=2)]
    columns += [Column("tokens/s", right=True, drop=1), Column("time")] if timed else []
    columns += [Column("cost")] if priced else []
    columns += [] if on_gpu else [Column("fits on", fold=True)]
    scale = _scale(found)
    rows: list[tuple[Cell, ...]] = []
    order = [*VERDICTS, None]
    for estimate in sorted(found, key=lambda each: order.index(each.verdict)):
        row: list[Cell] = [Words(name_of(estimate), "strong")]
        row += [verdict_cell(estimate)] if on_gpu else []
        row += [
            memory_cell(estimate),
            Parts(_bar_parts(estimate), estimate.gpu_usable_bytes, scale),
        ]
        row += [speed_cell(estimate), time_cell(estimate)] if timed else []
        row += [cost_cell(estimate)] if priced else []
        row += [] if on_gpu else [_fits_on(estimate)]
        rows.append(tuple(row))
    return Table(tuple(columns), tuple(rows))


def _bar_parts(estimate: Estimate) -> tuple[tuple[str, float], ...]:
    memory = estimate.memory
    cache = max(0, memory.device_bytes - memory.allocated_bytes)
    return grouped([*memory.parts.items(), (CACHE, cache)])


def _scale(found: Sequence[Estimate]) -> float:
    """Bytes of the whole bar: a little more than the card, or than the largest estimate."""
    most = max(estimate.memory.device_bytes for estimate in found)
    limit = found[0].gpu_usable_bytes
    if limit is None:
        return most
    return max(limit * _BEHIND_LIMIT, min(most, limit * _BEYOND_LIMIT))


def _fits_on(estimate: Estimate) -> Words:
    return Words(gpus_named(estimate.fits_on)) if estimate.fits_on else Words("none", "bad")


def _warnings(found: Sequence[Estimate], remedies: Sequence[Remedy]) -> list[Block]:
    blocks: list[Block] = []
    tight = [estimate for estimate in found if estimate.verdict == "tight"]
    if tight:
        names = ", ".join(name_of(estimate) for estimate in tight)
        text = f"Tight: {names} may run out of memory; the interval holds the card's limit."
        blocks.append(paragraph(f"{text} {_room(tight[0])}", "warn"))
    if found[0].verdict and all(estimate.verdict == "does_not_fit" for estimate in found):
        least = min(found, key=lambda estimate: estimate.memory.device_bytes)
        needs = format_bytes(least.memory.device_bytes)
        blocks.append(paragraph(f"Nothing fits: {name_of(least)} needs {needs}.", "bad"))
        blocks += remedies_blocks(remedies, name_of(least))
    if found[0].time and all(estimate.cost is None for estimate in found) and found[0].gpu:
        text = f"No price of {found[0].gpu} is known: --price USD (of one GPU-hour) gives the cost."
        blocks.append(paragraph(text))
    return blocks


def _room(estimate: Estimate) -> str:
    """Which settings make room, of those that are not used up yet."""
    settings = estimate.settings
    ways = ["a shorter --max-length"]
    if settings.get("micro_batch_size", 1) != 1:
        ways.insert(0, "a smaller --micro-batch-size")
    if settings.get("gradient_checkpointing") == "none":
        ways.insert(0, "--gradient-checkpointing")
    return f"Room makes {' or '.join(ways)}."
