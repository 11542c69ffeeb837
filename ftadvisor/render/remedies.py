"""The ladder of single changes, for a run that does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from ftadvisor.render.cells import VERDICTS
from ftadvisor.render.document import Block, Column, Table, Words, paragraph
from ftadvisor.schema.remedy import Remedy
from ftadvisor.units import format_bytes


def remedies_blocks(remedies: Sequence[Remedy], what: str) -> list[Block]:
    """A change a line, of the run that is called `what`; nothing where there is none."""
    if not remedies:
        return []
    helps = any(remedy.verdict != "does_not_fit" for remedy in remedies)
    title = f"What would help {what}" if helps else f"What comes nearest for {what}"
    columns = (
        Column("one change", fold=True),
        Column("verdict"),
        Column("peak memory", right=True),
        Column("training objective", fold=True),
    )
    rows = tuple(
        (
            Words(remedy.change, "strong"),
            Words(*VERDICTS[remedy.verdict]),
            Words(format_bytes(remedy.device_bytes)),
            Words("changes: less of each sample is read", "warn")
            if remedy.changes_objective
            else Words("the same"),
        )
        for remedy in remedies
    )
    order = "Cheapest in quality first; each is estimated, the rest of the settings as asked."
    return [Table(columns, rows, title), paragraph(order, "dim")]
