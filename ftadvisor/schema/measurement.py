"""A published or probed measurement, and what it says in ftadvisor's own terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of a measurements file; `data/measurements/FORMAT.md` says what each field means."""

    id: str
    source: str
    grade: str
    model: str
    gpu: str
    memory_gib: float | None
    memory_metric: str | None
    oom: bool
    micro_step_seconds: float | None
    lower_bound: bool
    row: dict[str, Any]
    """The row as published."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A measurement's settings, resolved as a user's options would be."""

    settings: Settings
    trainer: Trainer
    assumptions: tuple[str, ...]
    host_slowness: float = 1.0
    """What the machine's CPU takes to launch a kernel over what a usual one takes."""
    memory_unsupported: str | None = None
    """Why memory cannot be predicted; None: it can."""
