"""The training stack, the only place where this package imports it.

Its libraries are taken as untyped: their own annotations change from release to release, and much
of what is used here has none.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any

from ftadvisor.errors import MissingExtraError

# bitsandbytes 0.50 asks there for a faster kernel as it is imported, and says so where there is
# none; nothing is computed here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("simulate", "run") from error


torch = _library("torch")
transformers = _library("transformers")
peft = _library("peft")
bitsandbytes = _library("bitsandbytes")
initialization = _library("transformers.initialization")
quantizers = _library("transformers.quantizers.base")
should_convert_module = _library("transformers.quantizers.quantizers_utils").should_convert_module
Conv1D = _library("transformers.pytorch_utils").Conv1D
aten: Any = torch.ops.aten
TorchDispatchMode: Any = _library("torch.utils._python_dispatch").TorchDispatchMode
flop_registry: Any = _library("torch.utils.flop_counter").flop_registry
masking_utils = _library("transformers.masking_utils")
foreach = _library("torch.utils._foreach_utils")
optimizer_module = _library("torch.optim.optimizer")
torch_checkpoint = _library("torch.utils.checkpoint")
torch_library = _library("torch.library")
"""torch.library: kernels for the dispatcher."""


def trl_utils() -> Any:
    """TRL's trainer.utils, which takes seconds to import and few settings need."""
    return _library("trl.trainer.utils")


def trl_module(name: str) -> Any:
    """A module of TRL by its full name; its trainers take seconds to import."""
    return _library(name)


def accelerate_operations() -> Any:
    """accelerate's utils.operations, which TRL's trainers bring."""
    return _library("accelerate.utils.operations")


def accelerate_fsdp() -> Any:
    """accelerate's own code for FSDP2."""
    return _library("accelerate.utils.fsdp_utils")


def peft_policy() -> Any:
    """PEFT's policy of what FSDP1 wraps."""
    return _library("peft.utils.other").fsdp_auto_wrap_policy


def loaded(name: str) -> Any:
    """A module that has been imported; None: it has not."""
    return sys.modules.get(name)
