"""What an objective adds to a step: more sequences, second models, a generation phase.

Facts are TRL 1.16's: trl/trainer/dpo_trainer.py (chosen and rejected in one batch; the reference is
the base with its adapter switched off, or a second model without PEFT), kto_trainer.py (without
gradients: the policy on a second, mismatched batch, the reference on both), grpo_trainer.py and
rloo_trainer.py (micro_batch_size counts completions; generation before training; RLOO also runs the
old policy without gradients), distillation_trainer.py (the student generates, the teacher reads),
reward_trainer.py (two sequences, one score each).
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.schema.settings import Objective, Settings


class ObjectiveCost(NamedTuple):
    """Multipliers of one micro-batch's work, and what else must be held."""

    sequences: int
    """Sequences of one example that are trained on together."""
    frozen_models: int
    """Further frozen models of the policy's size whose weights are held."""
    frozen_forwards: float
    """Forward passes without gradients, per trained sequence."""
    classifies: bool
    """The head puts out a few scores, not the vocabulary."""
    generates: bool
    """Completions are generated before they are trained on."""
    full_logits: bool
    """The loss needs whole logits: no fused head."""


_PLAIN = ObjectiveCost(1, 0, 0.0, False, False, False)
_TABLE: dict[Objective, ObjectiveCost] = {
    "sft": _PLAIN,
    "clm": _PLAIN,
    "cpt": _PLAIN,
    "seq2seq": _PLAIN,
    "seq_cls": ObjectiveCost(1, 0, 0.0, True, False, False),
    "token_cls": ObjectiveCost(1, 0, 0.0, True, False, False),
    "distillation": ObjectiveCost(1, 1, 1.0, False, True, False),
    "reward": ObjectiveCost(2, 0, 0.0, True, False, False),
    "dpo": ObjectiveCost(2, 1, 1.0, False, False, False),
    "kto": ObjectiveCost(1, 1, 3.0, False, False, False),
    "orpo": ObjectiveCost(2, 0, 0.0, False, False, True),
    "grpo": ObjectiveCost(1, 1, 1.0, False, True, False),
    "rloo": ObjectiveCost(1, 1, 2.0, False, True, False),
    "ppo": ObjectiveCost(1, 3, 3.0, False, True, True),
}
CLASSIFYING = frozenset(name for name, cost in _TABLE.items() if cost.classifies)
NUM_LABELS = 2
"""Classes of a classifier whose data are not known (transformers 5.23 configuration_utils.py)."""
ANSWERS_IN_GROUPS = frozenset({"grpo", "rloo"})
"""Objectives that answer a prompt `num_generations` times."""
DROPS_NOTHING = frozenset({"dpo", "kto", "orpo", "reward"})
"""Objectives whose trainers disable dropout (disable_dropout of trl 1.16's configs); a run that is
asked for an adapter's leaves it on."""
SWITCHES_ADAPTER_OFF = frozenset({"dpo", "kto", "grpo", "rloo"})
"""Objectives whose reference is the policy with its adapter switched off, where there is one."""


def rows_of(objective: Objective) -> int:
    """Sequences of one example."""
    return _TABLE[objective].sequences


def is_generated(objective: Objective) -> bool:
    """Whether the policy writes what it is trained on."""
    return _TABLE[objective].generates


def objective_cost(settings: Settings, *, trains_base: bool) -> ObjectiveCost:
    """What the objective of these settings adds.

    With an adapter the reference needs no second copy of the weights. GRPO and RLOO need none at
    all when `reference_model` is False (beta = 0, TRL's default for GRPO).
    """
    cost = _TABLE[settings.objective]
    objective = settings.objective
    if objective in ANSWERS_IN_GROUPS and not settings.reference_model:
        return cost._replace(frozen_models=0, frozen_forwards=cost.frozen_forwards - 1)
    if not trains_base and objective in SWITCHES_ADAPTER_OFF:
        return cost._replace(frozen_models=0)
    return cost
