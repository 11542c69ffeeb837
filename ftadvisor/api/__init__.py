"""What ftadvisor does, one function per command. Each is loaded at first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftadvisor.api.estimate import estimate, estimates
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
    from ftadvisor.api.recommend import recommend
    from ftadvisor.api.rules import explain_rule, list_rules
    from ftadvisor.validation.report import validate

__all__ = [
    "estimate",
    "estimates",
    "explain_rule",
    "list_gpus",
    "list_models",
    "list_objectives",
    "list_optimizers",
    "list_prices",
    "list_rules",
    "list_techniques",
    "list_trainers",
    "model_config",
    "recommend",
    "show_gpu",
    "show_model",
    "validate",
]

_HOMES = {
    "estimate": "ftadvisor.api.estimate",
    "estimates": "ftadvisor.api.estimate",
    "explain_rule": "ftadvisor.api.rules",
    "list_rules": "ftadvisor.api.rules",
    "recommend": "ftadvisor.api.recommend",
    "validate": "ftadvisor.validation.report",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'ftadvisor.api' has no attribute {name!r}")
    home = _HOMES.get(name, "ftadvisor.api.listing")
    module = import_module(home)
    # Importing api.estimate leaves the module under the function's name: all names at once.
    globals().update({n: getattr(module, n) for n, place in _HOMES.items() if place == home})
    value: object = getattr(module, name)
    globals()[name] = value
    return value
