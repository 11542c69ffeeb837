"""The training stack, the only place where this room imports it: each library at its first use.

`stack.torch` imports torch when it is first asked for, so that the cheap checks cost no seconds.
Taken as untyped, as in simulation/stack.py.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
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
    numpy: Any
    psutil: Any
    safetensors: Any
    accelerate: Any
    jinja2: Any
    PIL_Image: Any
    liger: Any
    deepspeed: Any

LIBRARIES = (
    "torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "numpy",
    "psutil", "jinja2", "safetensors", "accelerate", "deepspeed",
)  # fmt: skip
MODULES = dict.fromkeys(LIBRARIES) | {
    "PIL_Image": "PIL.Image", "liger": "liger_kernel.transformers.monkey_patch",
}  # fmt: skip
"""Names here, and what is imported for them where that is called otherwise."""
# bitsandbytes 0.50 asks there for a faster kernel as it is imported, perhaps by another library,
# and says so where there is none.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def torchrun() -> tuple[Any, Any, Any]:
    """torchrun's own `main`, what it raises where a process fails, and what at a signal."""
    __getattr__("torch")
    elastic = import_module("torch.distributed.elastic.multiprocessing")
    failed = import_module("torch.distributed.elastic.multiprocessing.errors").ChildFailedError
    return import_module("torch.distributed.run").main, failed, elastic.SignalException


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"the training stack has no {name!r}")
    try:
        with uncollected():
            library = import_module(MODULES[name] or name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("run", "run") from error
    globals()[name] = library
    return library


@contextmanager
def uncollected() -> Generator[None]:
    """While something is imported, which makes a million objects that stay: to look for garbage
    among them takes 1 of 5 seconds.
    """
    was, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    try:
        yield
    finally:
        if was and not frozen:
            # Into the oldest generation, which is looked at least often, and not by way of the
            # younger ones, each of which would look at all of them.
            gc.freeze()
            gc.unfreeze()
        if was:
            gc.enable()


def quieten() -> None:
    """The libraries' own bars and advice; their errors are still raised."""
    for name in ("bitsandbytes", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # datasets 5.2 imported before Transformers leaves huggingface-hub 2.4 half imported.
    transformers = __getattr__("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    __getattr__("datasets").disable_progress_bars()
    # TRL 1.16 and PEFT 0.21 still use names that Transformers 5.23 calls old.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # PEFT 0.21 says so of every layer that its own LayerNorm tuning is for.
    warnings.filterwarnings("ignore", message="Unsupported layer type", module="peft")
