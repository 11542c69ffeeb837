"""What happens in a run, as it happens: events and logged losses."""

from __future__ import annotations

from typing import Any

from ftadvisor.schema.report import Event, Status

RESUMED = "resumed"
"""The event that a run went on."""


class EndedError(Exception):
    """The run cannot go on: its status, and what a person should read."""

    def __init__(self, status: Status, what: str) -> None:
        super().__init__(what)
        self.status: Status = status
        self.what = what


class Journal:
    """Kept by the run and its callbacks; the report is made of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.earlier: list[Event] = []
        """Of the processes whose run this one continues."""
        self.losses: list[dict[str, Any]] = []
        self.memory: list[dict[str, float]] = []
        self.measured: dict[str, float] = {}
        self.status: Status = "done"
        self.seconds_before = 0.0
        """Of training before this process, or before this attempt."""

    @property
    def step(self) -> int:
        """The last step whose loss is known."""
        return self.losses[-1]["step"] if self.losses else 0

    def told(self) -> tuple[Event, ...]:
        """All processes' events. What this one found again as it prepared is said once; what
        happened again is told again, and what ended the run comes last.
        """
        own = [*dict.fromkeys(self.events)]
        end = len(own) - (self.status != "done")
        start = next((i for i, event in enumerate(own) if event.kind == RESUMED), end)
        new = [event for event in own[:start] if event not in self.earlier]
        return (*self.earlier, *new, *own[start:])

    def say(self, kind: str, what: str, step: int = 0) -> None:
        """Note something for the report's reader."""
        self.events.append(Event(kind, step, what))

    def end(self, status: Status, kind: str, what: str, step: int) -> None:
        """The run ends before its last step; the first reason stands."""
        if self.status == "done":
            self.status = status
        self.say(kind, what, step)
