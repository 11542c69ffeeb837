"""What a search is given: records and wishes, no names and no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ftadvisor.estimation.calibrated import Fitted
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.rule import Rule
from ftadvisor.schema.situation import Facts, Goal
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.trainer import Trainer
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.goals import GoalWorth


class Offer(NamedTuple):
    """GPUs that can be had."""

    gpu: Gpu
    counts: tuple[int, ...]
    """How many of them at once."""
    usd_per_gpu_hour: float | None
    at_hand: bool = True
    """The person named it; else it is one of the price list."""
    calibrated: Fitted | None = None
    """The estimate's numbers for it, where measurements speak of it; None: those shipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One situation, complete."""

    model: ModelSpec
    name: str
    """What finds the model again: the catalogue's id, else what the person wrote."""
    objective: str
    trainer: Trainer
    workload: Workload
    offers: tuple[Offer, ...]
    """Empty: no GPU was named."""
    techniques: tuple[Technique, ...]
    """Those that are weighed."""
    facts: Facts
    rules: tuple[Rule, ...]
    goal: Goal
    worth: GoalWorth
    fitted: Fitted
    """The estimate's numbers, as shipped."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings that the person fixed, checked."""
    max_length: int
    """Tokens at which examples are cut."""
    longest_tokens: float = 0.0
    """Of nearly all examples."""
    technique: str | None = None
    """The one that the person named; the others are weighed to compare."""
    asked: frozenset[str] = frozenset()
    """technique, objective and settings that the person named."""
    budget_usd: float | None = None
    deadline_seconds: float | None = None
