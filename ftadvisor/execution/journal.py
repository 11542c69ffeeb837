"""What happens in a run, as it happens: events and logged losses."""

from __future__ import annotations

from typing import Any

from ftadvisor.schema.report import Event, Status


class Journal:
    """Kept by the run and its callbacks; the report is made of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.losses: list[dict[str, Any]] = []
        self.memory: list[dict[str, float]] = []
        self.measured: dict[str, float] = {}
        self.status: Status = "done"

    def say(self, kind: str, what: str, step: int = 0) -> None:
        """Note something for the report's reader."""
        self.events.append(Event(kind, step, what))

    def end(self, status: Status, kind: str, what: str, step: int) -> None:
        """The run ends before its last step; the first reason stands."""
        if self.status == "done":
            self.status = status
        self.say(kind, what, step)
