"""The training stack, the only place where this room imports it: each library at its first use.

`stack.torch` imports torch when it is first asked for, so that the cheap checks cost no seconds.
Taken as untyped, as in simulation/stack.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ftadvisor.errors import MissingExtraError

if TYPE_CHECKING:
    torch: Any
    transformers: Any
    peft: Any
    trl: Any
    bitsandbytes: Any
    datasets: Any

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets")


def torchrun() -> tuple[Any, Any]:
    """torchrun's own `main`, and what it raises where a process fails."""
    __getattr__("torch")
    errors = import_module("torch.distributed.elastic.multiprocessing.errors")
    return import_module("torch.distributed.run").main, errors.ChildFailedError


def __getattr__(name: str) -> Any:
    if name not in LIBRARIES:
        raise AttributeError(f"the training stack has no {name!r}")
    try:
        library = import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("run", "run") from error
    globals()[name] = library
    return library
