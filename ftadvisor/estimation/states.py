"""Bytes that do not depend on the batch: weights, gradients, optimizer states."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.numerics import (
    BITSANDBYTES,
    FP32_BYTES,
    HALF_BYTES,
    Numerics,
    in_deepspeed,
)
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.schema.settings import FSDP, Number, Quantization, Settings
from ftadvisor.schema.trainer import Trainer

NF4_BLOCK = 64
"""Weights that share one fp32 scale (bitsandbytes' blocksize)."""
NF4_NESTED_BLOCK = 256
"""Scales that share one second-level scale under double quantisation."""
OPTIMIZER_BLOCK = 256
"""Elements that share one fp32 scale in bitsandbytes' 8-bit states."""


def quantized_bytes_per_weight(quantization: Quantization, group_size: int) -> float:
    """Stored bytes per quantised matrix element, scales and zeros included.

    nf4: half a byte and an fp32 scale per 64. Double quantisation stores that scale in one byte
    with an fp32 scale per 256 of them. GPTQ and AWQ: per group and output column a half-precision
    scale and a zero of the weight's own width; one group per column when `group_size` is -1.
    LLM.int8: one byte (its scale per row is below 0.01 %).
    Ref: bitsandbytes/functional.py; auto_gptq/nn_modules/qlinear; arXiv:2305.14314 section 3.
    """
    if quantization == "nf4":
        return 0.5 + FP32_BYTES / NF4_BLOCK
    if quantization == "nf4-dq":
        return 0.5 + 1 / NF4_BLOCK + FP32_BYTES / (NF4_BLOCK * NF4_NESTED_BLOCK)
    if quantization in ("gptq-int4", "awq-int4"):
        return 0.5 + (0.0 if group_size < 0 else (HALF_BYTES + 0.5) / group_size)
    if quantization == "gptq-int8":
        return 1.0 + (0.0 if group_size < 0 else (HALF_BYTES + 1.0) / group_size)
    if quantization == "int8":
        return 1.0
    raise ValueError(quantization)


class OptimizerBytes(NamedTuple):
    """Bytes per trained parameter."""

    state: float
    """Kept between steps."""
    step_temporary: float
    """Formed for all trained parameters at once inside the step."""


_EIGHT_BIT = 1 + FP32_BYTES / OPTIMIZER_BLOCK
OPTIMIZERS: dict[str, tuple[float, float, float]] = {
    "adamw_torch": (2, 0, 1),
    "adamw_torch_fused": (2, 0, 0),
    "adamw_bnb_8bit": (0, 2 * _EIGHT_BIT, 0),
    "adamw_8bit": (0, 2 * _EIGHT_BIT, 0),
    "paged_adamw": (0, 2 * FP32_BYTES, 0),
    "paged_adamw_8bit": (0, 2 * _EIGHT_BIT, 0),
    "paged_adamw_32bit": (0, 2 * FP32_BYTES, 0),
    "ademamix": (0, 3 * FP32_BYTES, 0),
    "ademamix_8bit": (0, 3 * _EIGHT_BIT, 0),
    "adafactor": (0, 0, 0),
    "sgd": (0, 0, 0),
    "lion": (0, FP32_BYTES, 0),
    "lion_32bit": (0, FP32_BYTES, 0),
    "lion_8bit": (0, _EIGHT_BIT, 0),
    "paged_lion": (0, FP32_BYTES, 0),
    "paged_lion_8bit": (0, _EIGHT_BIT, 0),
    "paged_lion_32bit": (0, FP32_BYTES, 0),
    "rmsprop": (1, 0, 1),
    "rmsprop_bnb": (0, FP32_BYTES, 0),
    "adagrad": (1, 0, 2),
    "galore_adamw": (0, 0, 0),
    "galore_adamw_8bit": (0, 0, 0),
}
"""By Transformers' name: states in multiples of the parameter's bytes, further state bytes, and
temporaries of the step in multiples of the parameter's bytes, each per trained parameter."""


def optimizer_bytes(optim: str, trainable_dtype_bytes: int) -> OptimizerBytes:
    """States and temporaries of an optimizer [bytes per trained parameter].

    torch's AdamW keeps two states in the parameter's dtype; its foreach form (the default when
    nothing is asked) takes the square root of all second moments at once, one more such tensor; the
    fused form does not. bitsandbytes' 32-bit states are fp32, its 8-bit ones one byte and an fp32
    scale per 256; paged ones are as large, elsewhere (`is_paged`). Adafactor keeps a row and a
    column; GaLore's states are counted apart (`galore_state_bytes`).
    Ref: torch/optim/adamw.py (_multi_tensor_adamw), bitsandbytes/optim/optimizer.py.
    """
    states, further, temporaries = OPTIMIZERS[optim]
    return OptimizerBytes(
        states * trainable_dtype_bytes + further, float(temporaries * trainable_dtype_bytes)
    )


GALORE_RANK = 128
"""galore_torch's default, and Transformers' (trainer_optimizer.py, _get_galore_optimizer)."""


def galore_state_bytes(model: ModelSpec, optim: str, trainable: int, rank: int) -> float:
    """All of GaLore's states [bytes].

    A layer's matrix of m by n is projected to `rank` by the larger of both: two states of that
    size, and the projection. Embeddings, head and norms keep two states of their own size.
    Ref: arXiv:2403.03507, section 4; galore_torch/adamw.py and galore_projector.py.
    """
    each = _EIGHT_BIT if optim.endswith("8bit") else float(trainable)
    states, projections, projected = 0, 0, 0
    for block in model.blocks:
        for x in block.linears:
            wide, narrow = max(x.in_features, x.out_features), min(x.in_features, x.out_features)
            kept = min(rank, narrow) * x.count * block.num_layers
            states += 2 * kept * wide
            projections += kept * narrow
            projected += x.num_weights * block.num_layers
    return each * (states + 2 * (model.num_params - projected)) + trainable * projections


def wide_embedding_bytes(model: ModelSpec, optim: str, state: float) -> float:
    """What embeddings' states take beyond 8 bits: Transformers keeps those in fp32 [bytes].

    `state`: of another parameter [bytes]. Ref: transformers/trainer.py, create_optimizer,
    register_module_override.
    """
    if not optim.endswith("8bit") or optim.startswith("galore"):
        return 0.0
    return embedded_params(model) * state * (FP32_BYTES / _EIGHT_BIT - 1)


def embedded_params(model: ModelSpec) -> int:
    """All nn.Embedding's: of tokens, and learned positions' and types'."""
    return model.num_embedding_params + model.num_other_embedding_params


def is_paged(optim: str) -> bool:
    """Whether the states live in managed memory, which torch does not count."""
    return optim.startswith("paged_")


PAGED_FROM = 1e5
"""Elements of a tensor from which on its states are paged (bitsandbytes/optim/optimizer.py,
get_state_buffer)."""


def unpaged(elements: Number) -> Number:
    """Those of one tensor whose states a paged optimizer leaves to torch."""
    return select(elements < PAGED_FROM, elements, 0)


def unpaged_state_bytes(optim: str, state: float, params: Number, small: Number) -> Number:
    """What torch holds of a paged optimizer's states: those of small tensors, and the scales of
    8-bit ones [bytes].

    `state`: of one parameter; `small`: of the trained `params`, those in tensors too small to page.
    """
    scales = 0.0
    if optim.endswith("8bit"):
        scales = state / _EIGHT_BIT * FP32_BYTES / OPTIMIZER_BLOCK
    return small * state + (params - small) * scales


ADAFACTOR_COPIES = 2
"""Of the parameter that its step works on, in fp32: the gradient's square and its sum with epsilon;
half precision is converted besides, parameter and gradient (transformers/optimization.py,
Adafactor.step)."""


def adafactor_step_bytes(model: ModelSpec, element: int) -> float:
    """Temporaries of the largest parameter, of `element` bytes [bytes]; one is stepped at a time.

    A mixture's experts are one parameter where they are no modules.
    """
    matrices = [
        x.in_features * x.out_features if x.module else x.num_weights
        for block in model.blocks
        for x in block.linears
    ]
    widest = max([model.vocab_size * model.embedding_width, *matrices])
    copies = ADAFACTOR_COPIES + (2 if element == HALF_BYTES else 0)
    return float(copies * FP32_BYTES * widest)


def run_optimizer_bytes(
    settings: Settings, n: Numerics, trainer: Trainer, trainable: int
) -> OptimizerBytes:
    """The same for a run whose trained parameters take `trainable` bytes.

    DeepSpeed trains half-precision parameters through an fp32 copy, with fp32 states
    (deepspeed/runtime/zero/stage_1_and_2.py, single_partition_of_fp32_groups).
    """
    if in_deepspeed(settings, trainer) and trainable == HALF_BYTES:
        found = optimizer_bytes(settings.optim, FP32_BYTES)
        return OptimizerBytes(FP32_BYTES + found.state, found.step_temporary)
    return optimizer_bytes(settings.optim, trainable)


class WeightBytes(NamedTuple):
    """Where the base's bytes are [bytes, one unsharded copy]."""

    layers: float
    """Matrices, norms and biases inside the layers, quantised as stored."""
    quantization_constants: float
    """Scales and zeros, a part of `layers`."""
    outside: float
    """Embeddings, head, final norm, towers' projections."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.layers + self.outside


def weight_bytes(
    model: ModelSpec, settings: Settings, n: Numerics, trainer: Trainer
) -> WeightBytes:
    """Bytes of the base model's weights as stored on the GPU.

    bitsandbytes replaces nn.Linear and Conv1D alone: the experts of Transformers 5, bare parameters
    of three dimensions, stay as they are (transformers 5.23 integrations/bitsandbytes.py,
    replace_with_bnb_linear), and preparing the model makes them fp32 like its norms.
    """
    linear = model.num_linear_weights
    if settings.quantization in BITSANDBYTES:
        linear -= sum(_unquantized(block, trainer) for block in model.blocks)
    rest = sum(block.num_params for block in model.blocks) - linear
    outside = model.num_params - linear - rest
    outside_bytes = float(outside * n.outside)
    if not n.kbit:
        return WeightBytes(float(linear * n.weight + rest * n.weight), 0.0, outside_bytes)
    per_weight = quantized_bytes_per_weight(settings.quantization, settings.quantization_group_size)
    bare = 1.0 if settings.quantization in ("int8", "gptq-int8") else 0.5
    if trainer.quantizes_head:
        head = model.vocab_size * model.embedding_width
        if not model.tie_word_embeddings:
            outside_bytes -= head * n.weight
            outside_bytes += head * per_weight
    return WeightBytes(
        linear * per_weight + rest * n.norm_weight,
        linear * (per_weight - bare),
        outside_bytes,
    )


def _unquantized(block: Block, trainer: Trainer) -> int:
    """Matrix elements that bitsandbytes leaves as they are.

    What Transformers keeps in fp32 with fp16 weights (T5's wo) is never converted; the experts of
    Transformers 5 are no modules, except where it splits them again (Llama 4).
    """
    kept = sum(x.num_weights for x in block.linears if x.name in block.traits.unquantized)
    whole = trainer.grouped_experts and not block.traits.splits_experts
    return kept * block.num_layers + (block.num_bare_weights if whole else 0)


def trainable_dtype_bytes(settings: Settings, n: Numerics, trainer: Trainer) -> int:
    """Bytes of one trained parameter, of its gradient and of the dtype its states take."""
    if not n.trained:
        return n.adapter
    mixed = n.autocast and settings.strategy in FSDP
    if trainer.sharded_trainable_fp32 and mixed:
        return FP32_BYTES
    return n.weight


def shards(settings: Settings, what: str) -> Number:
    """Over how many GPUs `what` (parameters, gradients, optimizer) is divided."""
    divided = {
        "parameters": {"zero3", "fsdp"},
        "gradients": {"zero2", "zero3", *FSDP},
        "optimizer": {"zero1", "zero2", "zero3", *FSDP},
    }
    return settings.num_gpus if settings.strategy in divided[what] else 1
