"""The optimizers that Transformers' Trainer makes, on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.states import PAGED_FROM
from ftadvisor.simulation.stack import bitsandbytes as bnb
from ftadvisor.simulation.stack import torch, transformers

LEARNING_RATE = 1e-4


def make_optimizer(name: str, model: Any) -> Any:
    """The optimizer of that name for all that trains, in Trainer's two groups.

    Raises UnsupportedError for one whose step needs values.
    """
    if name.startswith("paged_"):
        found = make_optimizer(name.removeprefix("paged_"), model)
        found.get_state_buffer = _paged
        return found
    groups = parameter_groups(model)
    makers: dict[str, Callable[[], Any]] = {
        "adamw_torch": lambda: torch.optim.AdamW(groups, lr=LEARNING_RATE),
        "adamw_torch_fused": lambda: torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True),
        "sgd": lambda: torch.optim.SGD(groups, lr=LEARNING_RATE),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=LEARNING_RATE),
        "adagrad": lambda: torch.optim.Adagrad(groups, lr=LEARNING_RATE),
        "adafactor": lambda: transformers.Adafactor(
            groups, lr=LEARNING_RATE, scale_parameter=False, relative_step=False
        ),
        "adamw": lambda: bnb.optim.AdamW32bit(groups, lr=LEARNING_RATE),
        "adamw_32bit": lambda: bnb.optim.AdamW32bit(groups, lr=LEARNING_RATE),
        "adamw_8bit": lambda: bnb.optim.AdamW8bit(groups, lr=LEARNING_RATE),
        "adamw_bnb_8bit": lambda: bnb.optim.AdamW8bit(groups, lr=LEARNING_RATE),
        "lion": lambda: bnb.optim.Lion32bit(groups, lr=LEARNING_RATE),
        "lion_32bit": lambda: bnb.optim.Lion32bit(groups, lr=LEARNING_RATE),
        "lion_8bit": lambda: bnb.optim.Lion8bit(groups, lr=LEARNING_RATE),
        "rmsprop_bnb": lambda: bnb.optim.RMSprop32bit(groups, lr=LEARNING_RATE),
        "ademamix": lambda: bnb.optim.AdEMAMix(groups, lr=LEARNING_RATE),
        "ademamix_8bit": lambda: bnb.optim.AdEMAMix8bit(groups, lr=LEARNING_RATE),
    }
    if "8bit" in name:
        _embeddings_in_fp32(model)
    if name.startswith("galore"):
        # galore_torch/galore_projector.py, get_orthogonal_matrix
        reason = "its projections are a singular value decomposition, whose cuSOLVER workspace no"
        reason += " source states"
        raise UnsupportedError.of(f"optimizer {name}", reason, ["the closed form"])
    if name not in makers:
        raise UnsupportedError.of(f"optimizer {name}", "its step needs values", ["adamw_torch"])
    return makers[name]()


def _paged(parameter: Any, dtype: Any = torch.float32) -> Any:
    """A state in managed memory, which the caching allocator never sees, where it is large."""
    if parameter.numel() < PAGED_FROM:
        return torch.zeros_like(parameter, dtype=dtype)
    return parameter.new_zeros(1, dtype=dtype).expand(parameter.shape)


def _embeddings_in_fp32(model: Any) -> None:
    """Trainer asks for 32-bit states of every embedding, in transformers/trainer.py, where the
    optimizer has 8-bit ones.
    """
    manager = bnb.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Decayed and not: Trainer steps them one after the other."""
    decayed: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.dim() > 1 and "bias" not in name and "norm" not in name.lower()
            (decayed if plain else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@contextmanager
def steps_on_meta() -> Generator[None]:
    """bitsandbytes' kernels write in place: on meta nothing is left of them."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    with (
        mock.patch.object(bnb.functional, "optimizer_update_8bit_blockwise", nothing),
        mock.patch.object(bnb.functional, "optimizer_update_32bit", nothing),
        mock.patch.object(torch.cuda, "synchronize", nothing),
    ):
        yield
