"""What a trainer is built of."""

from __future__ import annotations

from typing import Any, NamedTuple

from ftadvisor.execution.device import Device
from ftadvisor.execution.examples import Examples
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.tokenizing import Tokenizing
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings


class Training(NamedTuple):
    """Everything that is decided and loaded before the trainer is made."""

    plan: Plan
    settings: Settings
    """The plan's, resolved: none is left open."""
    run: RunSettings
    device: Device
    examples: Examples
    tokenizing: Tokenizing
    model: Any
    """Adapted already."""
    callbacks: list[Any]
    journal: Journal

    @property
    def tokenizer(self) -> Any:
        """The tokenizer itself."""
        return self.tokenizing.tokenizer
