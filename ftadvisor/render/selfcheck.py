"""The closed form beside the simulation, for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ftadvisor.render.document import Block, Bullets, Column, Document, Table, Words, paragraph
from ftadvisor.schema.selfcheck import MEDIAN_BOUND, P95_BOUND, Checked, SelfCheck
from ftadvisor.units import GIB

WORST = 15


def selfcheck_document(found: SelfCheck) -> Document:
    """Errors by architecture and by setting, the worst rows, and whether the bounds hold."""
    blocks: list[Block] = [
        _groups(found, "architecture"),
        _groups(found, "setting"),
        _worst(found),
    ]
    refused = [f"{r.architecture}, {r.setting}: {r.reason}" for r in found.rows if r.reason]
    if refused:
        blocks.append(Bullets("Not compared", tuple(refused)))
    spread = found.spread()
    text = (
        f"{spread.rows} settings: median {spread.median:.2%} (bound {MEDIAN_BOUND:.1%}),"
        f" 95th percentile {spread.p95:.2%} (bound {P95_BOUND:.0%}), worst {spread.worst:.2%}."
    )
    blocks.append(paragraph(text, "good" if found.holds else "bad"))
    return tuple(blocks)


def _groups(found: SelfCheck, by: str) -> Table:
    groups: dict[str, list[Checked]] = defaultdict(list)
    for row in found.compared:
        groups[getattr(row, by)].append(row)
    rows: list[tuple[Words, ...]] = []
    for name, members in groups.items():
        spread = found.spread(members)
        shares = (spread.median, spread.p95, spread.worst)
        rows.append(
            (Words(name), Words(str(spread.rows)), *(Words(f"{share:.2%}") for share in shares))
        )
    heads = [Column(title, right=True) for title in ("settings", "median", "95 %", "worst")]
    title = "allocated memory, closed form over simulation"
    return Table((Column(by), *heads), tuple(rows), title)


def _worst(found: SelfCheck) -> Table:
    ordered: Sequence[Checked] = sorted(found.compared, key=lambda r: -abs(r.error or 0.0))
    rows = tuple(
        (
            Words(f"{row.architecture}, {row.setting}"),
            Words(f"{row.analytic_bytes / GIB:.2f}"),
            Words(f"{(row.simulated_bytes or 0) / GIB:.2f}"),
            Words(f"{row.error or 0.0:+.1%}"),
            Words(f"{row.analytic_phase} / {row.simulated_phase}"),
        )
        for row in ordered[:WORST]
    )
    heads = (
        Column("the worst", fold=True),
        Column("closed form, GiB", right=True),
        Column("simulated, GiB", right=True),
        Column("error", right=True),
        Column("peak in", fold=True, drop=1),
    )
    return Table(heads, rows)
