"""How measurement files of other people spell what ftadvisor has a name for, in lower case.

A table says what a spelling means; `ASSUMED` and `REFUSED` say where that is a guess, or where
nothing here means it.
"""

from __future__ import annotations

from typing import get_args

from ftadvisor.schema.settings import Strategy

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw (torch)": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adam": "adamw_torch",
    "decoupledadamw": "adamw_torch",
    "lora-fa": "adamw_torch",
    "adamw bf16 states + bf16 master": "adamw_torch",
    "adamw fp32 states": "adamw_torch",
    "adamw_apex_fused": "adamw_torch_fused",
    "fusedadam": "adamw_torch_fused",
    "galoreadamw": "galore_adamw",
    "pagedadamw": "paged_adamw_32bit",
    "pagedadamw (bnb)": "paged_adamw_32bit",
    "paged_adamw": "paged_adamw_32bit",
    "adamw8bit": "adamw_bnb_8bit",
    "adamw_8bit": "adamw_bnb_8bit",
    "pagedadamw8bit": "paged_adamw_8bit",
    "lion": "lion_32bit",
} | {
    name: name
    for name in (
        "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_8bit",
        "paged_adamw_32bit", "adafactor", "sgd", "lion_32bit", "lion_8bit", "galore_adamw",
        "galore_adamw_8bit", "ademamix", "ademamix_8bit", "paged_lion", "paged_lion_8bit",
        "paged_lion_32bit", "rmsprop", "rmsprop_bnb", "adagrad",
    )
}  # fmt: skip
"""Rows of a user's own may spell an optimizer as Transformers does."""
DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float8": "fp8",
} | {name: name for name in ("fp32", "bf16", "fp16", "fp8")}
STRATEGIES = {
    "dp": "ddp",
    "fsdp2": "fsdp",
    "zero-1": "zero1",
    "zero-2": "zero2",
    "zero-3": "zero3",
} | {name: name for name in get_args(Strategy)}
QUANTIZATIONS = {
    "4bit": "nf4",
    "bnb-nf4": "nf4",
    "bnb-nf4-dq": "nf4-dq",
    "int4": "nf4",
    "fp4": "nf4",
    "8bit": "int8",
    "bnb-int8": "int8",
    "gptq": "gptq-int4",
    "awq": "awq-int4",
} | {
    name: name
    for name in ("none", "nf4", "nf4-dq", "int8", "gptq-int4", "gptq-int8", "awq-int4")
}  # fmt: skip
TECHNIQUES = {"pissa": "lora", "lora+": "lora", "loraplus": "lora"}
"""Spellings that `sources.techniques` does not have."""
ALL_LINEAR = ("all", "all-linear", "all_linear")

ASSUMED = {
    "4bit": "the row does not say which 4-bit variant",
    "int4": "the row does not say which 4-bit variant",
    "fp4": "its weights take as many bytes",
    "gptq": "4 bits are GPTQ's usual width",
    "awq": "4 bits are AWQ's usual width",
    "pissa": "PiSSA trains LoRA's matrices from another start",
    "lora+": "LoRA+ trains LoRA's matrices at two learning rates",
    "loraplus": "LoRA+ trains LoRA's matrices at two learning rates",
}
"""Why a spelling counts as what its table says, where that is not the same thing."""
REFUSED = {
    "qdora": "DoRA on a 4-bit base is not described",
    "hsdp": "hybrid sharding, inside groups of GPUs, is not described",
}
