"""How an answer shows itself: in a notebook, through rich, and as text."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any


class Displayed:
    """A record that reads well where it is displayed.

    What it looks like is `render.display`'s affair. A schema knows nothing of that room, which is
    above it: it is asked for by name, and only when something is displayed.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        return display().as_html(self)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from display().as_renderables(self, console, options)

    def __str__(self) -> str:
        return display().as_text(self)


def display() -> Any:
    """The room that knows."""
    return import_module("ftadvisor.render.display")
