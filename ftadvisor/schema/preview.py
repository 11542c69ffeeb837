"""What a run would learn from: `ftadvisor run --preview`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """A stretch of an example."""

    text: str
    learnt: bool
    """Whether the loss counts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A few examples as the model will see them."""

    examples: tuple[tuple[Piece, ...], ...]
    notes: tuple[str, ...]
    """How the rows were read."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, as `--preview --json` prints them."""
        examples = [[piece._asdict() for piece in example] for example in self.examples]
        return {"examples": examples, "notes": list(self.notes)}
