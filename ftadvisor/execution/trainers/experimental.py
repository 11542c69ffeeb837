"""TRL's experimental trainers, in this module alone: any release may move them."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from ftadvisor.errors import MissingExtraError

ORPO = "trl.experimental.orpo"


def trainer_and_config(module: str, name: str) -> tuple[Any, Any]:
    """`NameTrainer` and `NameConfig` of the module."""
    with warnings.catch_warnings():
        # That it is experimental; the version is pinned.
        warnings.simplefilter("ignore")
        try:
            found = import_module(module)
            return getattr(found, f"{name}Trainer"), getattr(found, f"{name}Config")
        except (ImportError, AttributeError) as error:
            raise MissingExtraError("run", "run") from error
