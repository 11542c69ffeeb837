"""The answer of `recommend`: one plan that can be run, why, and what else there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

from ftadvisor.schema.display import Displayed
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.read_only import read_only, writable
from ftadvisor.schema.remedy import Remedy
from ftadvisor.schema.workload import Workload

SCHEMA_VERSION = 1
"""Of a plan file; a newer one is refused by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDataset:
    """The data that a plan trains on."""

    path: str
    format: str | None
    columns: Mapping[str, str]
    """What a column is for, to its name in the file. Read-only."""
    split: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", read_only(self.columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHardware:
    """What a plan runs on."""

    gpu: str | None
    """None: none was named."""
    num_gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, complete: nothing else has to be decided."""

    schema_version: int = SCHEMA_VERSION
    model: str
    dataset: PlanDataset | None
    hardware: PlanHardware
    technique: str
    objective: str
    workload: Workload
    """How much there is to train on, and so what the estimate is for."""
    settings: Mapping[str, Any]
    """Every setting that this run has, by its name in Transformers, PEFT, TRL or DeepSpeed.
    Read-only."""
    seed: int
    estimate: Estimate

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", read_only(self.settings))

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, as JSON and YAML have them."""
        found = cast("dict[str, Any]", writable(asdict(self)))
        # Said once, among the settings.
        del found["workload"]["num_train_epochs"]
        return found


class Reason(NamedTuple):
    """A rule that decided something."""

    rule: str
    because: str
    source: str
    evidence: str = ""
    """How well the source is known (opened, secondary, abstract, recalled, ...)."""
    overrides: tuple[str, ...] = ()
    """Rules that said otherwise."""
    about: str = ""
    """What it decided: limits, objective, technique, comparison, background, or the name of the
    setting that it set."""


class Rejected(NamedTuple):
    """A technique that was not chosen, and the number or the rule that decided it."""

    technique: str
    why: str
    rule: str
    needs: float | None = None
    """What it takes, in the unit that `rule` is about (bytes, USD, seconds, points)."""
    has: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that wins by another measure."""

    label: str
    """cheapest, fastest, best quality, least memory."""
    plan: Plan
    quality_points: float | None
    """Expected accuracy points against the chosen plan; None: unknown."""


class Measurement(NamedTuple):
    """What the plan measures before and after training."""

    metric: str
    rule: str
    source: str
    evidence: str = ""
    """How well the source is known."""


class Standing(NamedTuple):
    """A technique's expected quality here, and what it takes at its best setting."""

    technique: str
    points: float | None
    """Expected accuracy points against LoRA; None: unknown."""
    low: float | None
    high: float | None
    device_bytes: int
    total_seconds: float | None
    total_usd: float | None
    verdict: str | None
    on_front: bool
    """No other technique is at least as good in every measure and better in one."""
    recalled: bool = False
    """A comparison that it rests on is recalled, not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation(Displayed):
    """A plan, its reasons, what was rejected, and what would change the answer."""

    plan: Plan | None
    """None: nothing fits; `remedies` says what would."""
    reasons: tuple[Reason, ...]
    rejected: tuple[Rejected, ...]
    alternatives: tuple[Alternative, ...]
    standings: tuple[Standing, ...]
    """All techniques that were weighed."""
    flips: tuple[str, ...]
    """What would change the answer."""
    evaluation: tuple[Measurement, ...]
    warnings: tuple[str, ...]
    remedies: tuple[Remedy, ...] = ()
    assumptions: tuple[str, ...] = ()
    num_candidates: int = 0
    """Settings that were compared."""
    dataset: dict[str, Any] | None = field(default=None)
    """What was read in the dataset."""
    model: str | None = None
    """The model that was weighed, where there is no plan too."""
    gpus: tuple[str, ...] = ()
    """The GPUs to choose from, each with how many of it may be used at most: `2 × rtx-4090`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, as `recommend --json` prints them."""
        found = cast("dict[str, Any]", writable(asdict(self)))
        found["plan"] = self.plan.as_dict() if self.plan else None
        for row, alternative in zip(found["alternatives"], self.alternatives, strict=True):
            row["plan"] = alternative.plan.as_dict()
        for name in ("reasons", "rejected", "standings", "evaluation", "remedies"):
            found[name] = [row._asdict() for row in getattr(self, name)]
        return found
