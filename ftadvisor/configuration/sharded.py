"""What FSDP2 and DeepSpeed's ZeRO cannot divide, with the releases that are run; where a run loads
what they divide."""

from __future__ import annotations

from typing import Any, Final

from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.numerics import DTYPE_BYTES
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import FSDP, ZERO
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.trainer import Trainer
from ftadvisor.units import format_bytes

DIVISIBLE: Final = ("adamw_torch_fused", "adamw_torch", "sgd", "rmsprop")
"""Optimizers of which torch 2.13 can compute a step on divided parameters, and save the states.
bitsandbytes' operations have no sharding strategy, Transformers' Adafactor mixes divided tensors
with whole ones (5.23 optimization.py line 1266), the states of torch's Adagrad cannot be saved."""
SHARDING: Final = (*FSDP, "zero3")
"""Strategies that divide the weights themselves."""
QUANTIZED_BYTES: Final = {"nf4": 0.5, "nf4-dq": 0.5}
"""Of a parameter, without its scales."""
VIRTUAL_TOKENS: Final = ("prompt_tuning", "p_tuning", "prefix_tuning")


def check_sharded(chosen: dict[str, Any], technique: Technique, model: ModelSpec) -> None:
    """Raise UnsupportedError for what would fail at its first step or first checkpoint, or go on
    as something else.
    """
    strategy, optim = chosen.get("strategy"), chosen["optim"]
    found: tuple[str, str, list[str]] | None = None
    if strategy not in (*FSDP, *ZERO):
        return
    if technique.id == "adalora":
        # PEFT's rank allocator reads p.grad, which ZeRO keeps elsewhere and FSDP2 in pieces.
        found = "adalora", "its ranks move by gradients that no process has whole", ["lora"]
    elif technique.id == "galore":
        found = "galore", "it projects whole gradient matrices, and no process has one", ["lora"]
    elif strategy in ZERO and optim == "adafactor":
        # One row of all parameters has no rows and columns, and one scale for all of it.
        why = "the engine flattens what it divides, so that it is another optimizer, and no smaller"
        found = "optim adafactor", why, ["--optim adamw_8bit"]
    elif strategy in FSDP and optim not in DIVISIBLE:
        instead = ["--optim adamw_torch_fused", "--strategy zero2"]
        found = f"optim {optim}", "torch cannot compute or save it with divided parameters", instead
    elif strategy in FSDP and technique.id in VIRTUAL_TOKENS:
        # peft 0.21.2 peft_model.py, get_prompt_embedding_to_save: the encoder's forward outside of
        # the unit that would gather it.
        why = "PEFT cannot save virtual tokens that are divided"
        found = technique.id, why, ["--technique lora"]
    elif strategy in FSDP and model.family == "encdec":
        # accelerate 1.15 utils/fsdp_utils.py puts one of the modules into a group of its own.
        why = (
            "encoder and decoder share their embeddings, and torch 2.13 divides them only together"
        )
        found = f"{model.id}, an encoder-decoder", why, ["--strategy zero3"]
    elif strategy in FSDP and _becomes_fp32(chosen, technique):
        # accelerate 1.15 utils/fsdp_utils.py line 806.
        what = f"adapter_dtype {chosen['adapter_dtype']} and mixed precision"
        found = what, "accelerate makes fp32 of all that is trained", ["--adapter-dtype fp32"]
    if found:
        what, why, instead = found
        raise UnsupportedError.of(
            f"{what} with strategy {strategy}", why, [*instead, "--strategy ddp"]
        )


def host_bytes(num_params: int, quantization: str, weights_dtype: str) -> float:
    """What a process loads of a model in the host's memory."""
    return num_params * QUANTIZED_BYTES.get(quantization, DTYPE_BYTES[weights_dtype])


def loading_said(chosen: dict[str, Any], model: ModelSpec, trainer: Trainer) -> list[str]:
    """What the host needs where no GPU holds the whole model."""
    if chosen.get("strategy") not in SHARDING or trainer.model_code != "transformers":
        return []
    quantization = str(chosen.get("quantization"))
    if quantization not in ("none", *QUANTIZED_BYTES):
        return []
    each = host_bytes(model.num_params, quantization, chosen["weights_dtype"])
    said = (
        "every process loads the whole model on the CPU, up to"
        f" {format_bytes(each)} of the host's memory"
    )
    if quantization in QUANTIZED_BYTES:
        said += ": by Transformers' default every GPU would hold it before it is divided"
    return [said]


def _becomes_fp32(chosen: dict[str, Any], technique: Technique) -> bool:
    """Whether an adapter would not be of the dtype that the settings say; beside a quantised base
    accelerate leaves it."""
    half = chosen.get("adapter_dtype", "fp32") != "fp32" and chosen["autocast"] != "none"
    whole = chosen.get("quantization", "none") == "none"
    return half and whole and not technique.trains_base
