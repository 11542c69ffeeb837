"""The settings that no memory or time decides: learning rate, rank, epochs, batch, warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftadvisor.advice.engine import Fired, Verdicts, holding
from ftadvisor.advice.question import Question
from ftadvisor.estimation.objectives import ANSWERS_IN_GROUPS
from ftadvisor.schema.options import Options
from ftadvisor.schema.rule import Rule

OF_THE_ESTIMATE = frozenset(Options.__annotations__)
"""Settings that memory and time depend on; the others only the trainer reads."""
DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "weight_decay": 0.0,
    "num_train_epochs": 1.0,
    "global_batch_size": 16,
}
"""Where no rule speaks: `Hyperparameters.unruled` names those that were needed."""
KEPT_REFERENCE = 0.04
"""The weight of the distance to the reference where a reference is asked for and no rule gives one:
DeepSeekMath's GRPO, arXiv:2402.03300, section 4.1.4."""
ALPHA_OVER_RANK = 2
SCALED = frozenset({"lora", "dora", "qlora", "adalora"})
"""What the rules alpha-r* have in common, for a rank of the person's between theirs."""
LORA_ONLY = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Values by name, and the rules that set them."""

    values: dict[str, Any]
    fired: dict[str, Fired]
    moved: tuple[tuple[str, Rule], ...]
    """Settings that a limit moved, and the rule that did."""
    unruled: tuple[str, ...]
    verdicts: Verdicts

    @property
    def num_train_epochs(self) -> float:
        """Passes over the data."""
        return float(self.values["num_train_epochs"])

    @property
    def global_batch_size(self) -> int:
        """Sequences of an optimizer step, all GPUs."""
        return int(self.values["global_batch_size"])

    @property
    def options(self) -> dict[str, Any]:
        """Those that the estimate reads too."""
        own = {
            k: v
            for k, v in self.values.items()
            if k in OF_THE_ESTIMATE and k not in ("num_train_epochs", "max_length")
        }
        if self.verdicts.facts.objective in ANSWERS_IN_GROUPS:
            # A weight of zero on the distance to the reference needs none.
            own.setdefault("reference_model", self.values.get("beta", 0.0) > 0)
        return own

    @property
    def training_only(self) -> dict[str, Any]:
        """Those that only the trainer reads."""
        kept = {k: v for k, v in self.values.items() if k not in OF_THE_ESTIMATE}
        return {**kept, "num_train_epochs": self.num_train_epochs}


def hyperparameters(question: Question, technique: str, *, adapts: bool) -> Hyperparameters:
    """What the rules say for one technique, within their limits; the person's own values first.

    Rules may ask for the number of optimizer steps, which follows from epochs and batch: the rules
    are asked twice.
    """
    facts = replace(question.facts, technique=technique, objective=question.objective)
    first = _values(question, holding(question.rules, facts), adapts)
    batch, epochs = first.global_batch_size, first.num_train_epochs
    steps = math.ceil(question.workload.num_examples / batch * epochs)
    rank = question.options.get("lora_r", first.values.get("lora_r"))
    facts = replace(
        facts,
        num_steps=float(steps),
        global_batch_size=float(batch),
        lora_r=float(rank) if rank else None,
    )
    return _values(question, holding(question.rules, facts), adapts)


def _values(question: Question, verdicts: Verdicts, adapts: bool) -> Hyperparameters:
    given: Mapping[str, Any] = question.options
    facts = verdicts.facts
    values: dict[str, Any] = {}
    fired: dict[str, Fired] = {}
    moved: list[tuple[str, Rule]] = []
    for name in verdicts.setting_names():
        if name in given or (name in LORA_ONLY and not adapts):
            continue
        found = verdicts.setting(name)
        if found is None:
            continue
        fired[name] = found
        values[name] = found.value
        if isinstance(found.value, int | float) and not isinstance(found.value, bool):
            values[name], by = verdicts.limited(name, found.value, found.rule)
            moved += [(name, by)] if by else []
    if "lora_r" in values and "lora_r" not in given:
        values["lora_r"] = int(values["lora_r"])
    rank = facts.lora_r
    if facts.technique in SCALED and rank and "lora_alpha" not in {*values, *given}:
        values["lora_alpha"] = int(ALPHA_OVER_RANK * rank)
    if "reference_model" in given:
        # In TRL the weight of the distance decides whether there is a reference.
        weight = values.get("beta") or KEPT_REFERENCE
        values["beta"] = weight if given["reference_model"] else 0.0
    targets = values.get("lora_target_modules")
    if isinstance(targets, str):
        values["lora_target_modules"] = (targets,)
    unruled = tuple(k for k in DEFAULTS if k not in values and k not in given)
    for name in DEFAULTS:
        values.setdefault(name, given.get(name, DEFAULTS[name]))
    return Hyperparameters(values, fired, tuple(moved), unruled, verdicts)
