"""How every command prints what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftadvisor.render.document import Document


def print_answer(answer: object, document: Callable[[], Document], *, as_json: bool) -> None:
    """The answer as JSON, else the document that is made of it."""
    if as_json:
        from ftadvisor.render.serial import as_json as text_of

        print(text_of(answer))
        return
    from ftadvisor.render.terminal import print_document

    print_document(document())
