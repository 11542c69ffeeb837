"""Examples as the model sees them; what is learnt stands in {+ +}, as in git's word diff."""

from __future__ import annotations

from ftadvisor.render.document import Block, Bullets, Document, Paragraph, Words, paragraph
from ftadvisor.schema.preview import Piece, Preview

LONGEST = 2000
"""Characters of an example."""


def preview_document(preview: Preview) -> Document:
    """How the rows are read, then the examples."""
    blocks: list[Block] = [Bullets("Data", preview.notes)]
    for number, pieces in enumerate(preview.examples, 1):
        blocks.append(paragraph(f"Example {number}, learnt: {{+ … +}}", "strong"))
        text = "".join(map(_marked, pieces))
        cut = f"{text[:LONGEST]} … ({len(text):,} characters)" if len(text) > LONGEST else text
        blocks.append(Paragraph(tuple(Words(line) for line in cut.rstrip().split("\n"))))
    return tuple(blocks)


def _marked(piece: Piece) -> str:
    if not piece.learnt:
        return piece.text
    inside = piece.text.rstrip("\n")
    return f"{{+{inside}+}}{piece.text[len(inside) :]}"
