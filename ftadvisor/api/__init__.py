"""What ftadvisor does, one function per command. Each is loaded at first use.

No module here is called as a function that is exported: an import of the module would put it in
the function's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftadvisor.api.comparison import compare
    from ftadvisor.api.estimator import estimate, estimates
    from ftadvisor.api.evaluating import evaluate
    from ftadvisor.api.fitting import fit
    from ftadvisor.api.listing import (
        list_gpus,
        list_models,
        list_objectives,
        list_optimizers,
        list_prices,
        list_techniques,
        list_trainers,
        model_config,
        show_gpu,
        show_model,
    )
    from ftadvisor.api.recommender import recommend
    from ftadvisor.api.remedies import ways_to_fit
    from ftadvisor.api.rules import explain_rule, list_rules
    from ftadvisor.api.running import preview, run
    from ftadvisor.api.selfchecking import selfcheck
    from ftadvisor.api.simulating import simulate
    from ftadvisor.api.validating import validate

__all__ = [
    "compare",
    "estimate",
    "estimates",
    "evaluate",
    "explain_rule",
    "fit",
    "list_gpus",
    "list_models",
    "list_objectives",
    "list_optimizers",
    "list_prices",
    "list_rules",
    "list_techniques",
    "list_trainers",
    "model_config",
    "preview",
    "recommend",
    "run",
    "selfcheck",
    "show_gpu",
    "show_model",
    "simulate",
    "validate",
    "ways_to_fit",
]

_HOMES = {
    "compare": "ftadvisor.api.comparison",
    "fit": "ftadvisor.api.fitting",
    "ways_to_fit": "ftadvisor.api.remedies",
    "estimate": "ftadvisor.api.estimator",
    "estimates": "ftadvisor.api.estimator",
    "evaluate": "ftadvisor.api.evaluating",
    "explain_rule": "ftadvisor.api.rules",
    "list_rules": "ftadvisor.api.rules",
    "recommend": "ftadvisor.api.recommender",
    "preview": "ftadvisor.api.running",
    "run": "ftadvisor.api.running",
    "selfcheck": "ftadvisor.api.selfchecking",
    "simulate": "ftadvisor.api.simulating",
    "validate": "ftadvisor.api.validating",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'ftadvisor.api' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES.get(name, "ftadvisor.api.listing")), name)
    globals()[name] = value
    return value
