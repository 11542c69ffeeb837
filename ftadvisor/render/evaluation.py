"""How good a trained model is, for people."""

from __future__ import annotations

from ftadvisor.render.document import Block, Bullets, Document, paragraph
from ftadvisor.render.run import SHOWN_ANSWERS, answer_table, metrics_table, name_of
from ftadvisor.schema.evaluation import Evaluation


def evaluation_document(found: Evaluation) -> Document:
    """The metrics, a few answers, what to know of them."""
    beside = f", beside its base {name_of(found.base)}" if found.base else ""
    head = f"{found.model} on {found.num_rows:,} rows of {found.dataset}{beside}."
    blocks: list[Block] = [paragraph(head)]
    if found.metrics:
        blocks.append(metrics_table(found.metrics))
    blocks += [answer_table(answer) for answer in found.answers[:SHOWN_ANSWERS]]
    if found.events:
        blocks.append(Bullets("To know", tuple(event.what for event in found.events)))
    return tuple(blocks)
