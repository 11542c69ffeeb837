"""Looks at every row of every catalogue in `data/`; a question looks at those it needs."""

from __future__ import annotations

from ftadvisor.sources.architectures import check_kernels
from ftadvisor.sources.architectures.config import check_architectures
from ftadvisor.sources.coefficients import check_coefficients
from ftadvisor.sources.goals import goal_worths
from ftadvisor.sources.gpus import check_gpus
from ftadvisor.sources.models import check_models
from ftadvisor.sources.optimizers import objective_rows, optimizer_rows
from ftadvisor.sources.prices import check_prices
from ftadvisor.sources.proposals import all_proposals
from ftadvisor.sources.rules import built_in_rules
from ftadvisor.sources.techniques import check_peft_options, check_techniques
from ftadvisor.sources.trainers import check_trainers
from ftadvisor.sources.workloads import check_workloads

CHECKS = {
    "techniques.json": check_techniques,
    "target_modules.json": check_techniques,
    "trainers.json": check_trainers,
    "workloads.json": check_workloads,
    "architectures.json": check_architectures,
    "coefficients/memory.json": check_coefficients,
    "coefficients/simulated.json": check_coefficients,
    "coefficients/time.json": check_coefficients,
    "gpus.json": check_gpus,
    "kernels.json": check_kernels,
    "prices.json": check_prices,
    "models.json": check_models,
    "optimizers.json": optimizer_rows,
    "objectives.json": objective_rows,
    "peft_options.json": check_peft_options,
    "starting_models.json": all_proposals,
    "rules/evidence.json": built_in_rules,
    "rules/seed.json": built_in_rules,
    "rules/objectives.json": built_in_rules,
    "rules/settings.json": built_in_rules,
    "rules/measures.json": built_in_rules,
    "rules/physics.json": built_in_rules,
    "rules/goals.json": goal_worths,
}
"""By file: what looks at every row of it."""


def check_data() -> None:
    """Raise DataFileError at the first row that cannot be right."""
    for check in dict.fromkeys(CHECKS.values()):
        check()
