"""Looks at every row of every catalogue in `data/`; a question looks at those it needs."""

from __future__ import annotations

from ftadvisor.sources.architectures.config import check_architectures
from ftadvisor.sources.coefficients import check_coefficients
from ftadvisor.sources.gpus import check_gpus
from ftadvisor.sources.models import check_models
from ftadvisor.sources.prices import check_prices
from ftadvisor.sources.techniques import check_techniques
from ftadvisor.sources.trainers import check_trainers
from ftadvisor.sources.workloads import check_workloads

CHECKS = {
    "techniques.json": check_techniques,
    "target_modules.json": check_techniques,
    "trainers.json": check_trainers,
    "workloads.json": check_workloads,
    "architectures.json": check_architectures,
    "coefficients/memory.json": check_coefficients,
    "coefficients/time.json": check_coefficients,
    "gpus.json": check_gpus,
    "prices.json": check_prices,
    "models.json": check_models,
}
"""By file: what looks at every row of it."""


def check_data() -> None:
    """Raise DataFileError at the first row that cannot be right."""
    for check in dict.fromkeys(CHECKS.values()):
        check()
