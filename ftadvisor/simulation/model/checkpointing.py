"""How layers are run again in backward."""

from __future__ import annotations

from functools import partial
from typing import Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.stack import aten, torch_checkpoint

KEPT = tuple(
    getattr(aten, f"_scaled_dot_product_{name}").default
    for name in ("flash_attention", "efficient_attention", "cudnn_attention")
)
"""Selectively: attention's results stay, and all else is computed again."""


def checkpoint_options(settings: Settings, trainer: Trainer) -> dict[str, Any]:
    """What torch.utils.checkpoint is called with.

    Raises UnsupportedError where attention is no operation of its own that could be kept.
    """
    if settings.gradient_checkpointing != "selective":
        return {"use_reentrant": trainer.reentrant_checkpointing}
    if settings.attn_implementation == "eager":
        reason = "what it keeps is the result of a fused attention, which eager attention is not"
        raise UnsupportedError.of("selective checkpointing", reason, ["--attn-implementation sdpa"])
    contexts = partial(torch_checkpoint.create_selective_checkpoint_contexts, list(KEPT))
    return {"use_reentrant": False, "context_fn": contexts}
