"""A simulated step for people: the estimate, who holds the peak, and what is computed."""

from __future__ import annotations

from collections.abc import Sequence

from ftadvisor.render.document import Block, Column, Document, Table, Words, paragraph
from ftadvisor.render.estimate import estimates_document
from ftadvisor.schema.remedy import Remedy
from ftadvisor.schema.simulation import Consumer, SimulatedStep, Simulation
from ftadvisor.units import GIB, TERA, format_bytes, format_share

ROWS = 8
"""Consumers that are listed."""


def simulation_document(found: Simulation, remedies: Sequence[Remedy] = ()) -> Document:
    """The estimate's own blocks, and the step's before what was assumed."""
    *head, last = estimates_document([found.estimate], remedies)
    if found.step is None:
        text = f"Not simulated: {found.reason.rstrip('.')}. These are the closed form's figures."
        return (paragraph(text, "warn"), *head, last)
    return (*head, *_step(found.step), last)


def title_of(found: Simulation) -> str:
    """What a picture of it is headed with."""
    e = found.estimate
    batch = f"{e.settings['micro_batch_size']} × {e.settings['max_length']} tokens"
    return f"{e.model}, {e.technique}, {batch}, {e.gpu or 'any GPU'}, {e.trainer}"


def _step(step: SimulatedStep) -> tuple[Block, ...]:
    retries = f" The allocator gave its cache back {step.num_retries} times."
    said = (
        f"Simulated in {step.seconds:.1f} s: the peak of {format_bytes(step.allocated_bytes)} is"
        f" in {step.peak_phase}, at {step.peak_operation} in {step.peak_module};"
        f" {format_bytes(step.reserved_bytes)} are reserved."
        + (retries if step.num_retries else "")
    )
    return (
        paragraph(said),
        _parts(step),
        _consumers("module", step.modules, step),
        _consumers("operation", step.operations, step),
        _phases(step),
    )


def _gib(size: float) -> Words:
    return Words(f"{size / GIB:,.3f}")


def _parts(step: SimulatedStep) -> Table:
    rows = tuple(
        (Words(kind), _gib(size), Words(format_share(size / step.allocated_bytes)))
        for kind, size in step.parts.items()
    )
    heads = (Column("kind"), Column("GiB", right=True), Column("share", right=True))
    return Table(heads, rows, "The peak by kind")


def _consumers(what: str, found: Sequence[Consumer], step: SimulatedStep) -> Table:
    rows = tuple(
        (
            Words(row.name),
            Words(row.kind),
            _gib(row.bytes),
            Words(format_share(row.bytes / step.allocated_bytes)),
            Words(f"{row.tensors:,}"),
        )
        for row in found[:ROWS]
    )
    heads = (
        Column(what, fold=True),
        Column("kind"),
        Column("GiB", right=True),
        Column("share", right=True, drop=2),
        Column("tensors", right=True, drop=1),
    )
    return Table(heads, rows, f"Who holds it, by {what}")


def _phases(step: SimulatedStep) -> Table:
    """Peak and work of each phase of the last optimizer step."""
    last = step.phases[-2].name.rpartition(" ")[2] if len(step.phases) > 1 else ""
    rows: list[tuple[Words, ...]] = []
    for phase in step.phases:
        number = phase.name.rpartition(" ")[2].partition(".")[0]
        if number != last:
            continue
        work = [w for w in step.work if w.phase == phase.name]
        rows.append(
            (
                Words(phase.name),
                _gib(phase.peak_bytes),
                Words(f"{sum(w.flops for w in work) / TERA:,.2f}"),
                _gib(sum(w.moved_bytes for w in work)),
                Words(f"{sum(w.kernels for w in work):,}"),
            )
        )
    heads = (
        Column("phase"),
        Column("peak GiB", right=True),
        Column("TFLOP", right=True),
        Column("GiB moved", right=True, drop=1),
        Column("kernels", right=True, drop=2),
    )
    return Table(heads, tuple(rows), "The second step, by phase")
