"""What one micro-batch makes a GPU do: FLOPs and bytes by kind, before any speed is known.

6 FLOPs per parameter and token (Kaplan et al. 2020): 2 forward, 2 for the gradient that is passed
on, 2 for the weight's own. Frozen weights need no gradient of their own; recomputation is one more
forward of the layers.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import smallest
from ftadvisor.estimation.numerics import DTYPE_BYTES, FP32_BYTES, HALF_BYTES
from ftadvisor.estimation.objectives import ObjectiveCost
from ftadvisor.schema.model import Block, Linear, ModelSpec
from ftadvisor.schema.settings import Number, Settings

SELECTIVE_RECOMPUTED = 0.5
"""Share of a layer's matrix products that selective checkpointing runs again: attention's output
and every second product are kept (torchtitan's policy)."""
ATTENTION_BACKWARD = 2.5
"""Products of flash attention's backward over its forward's: five over two (Dao 2022)."""
CROSS_ENTROPY_PASSES = 6
"""fp32 logits written or read by log-softmax, loss and their backward."""


class Work(NamedTuple):
    """One rank's micro-batch, forward and backward."""

    linear_flops: Number
    attention_flops: Number
    elementwise_bytes: Number
    logit_bytes: Number
    dequantized_bytes: Number
    """Matrix elements that are unpacked, in half-precision bytes."""
    layer_passes: float
    """Layers run, forward, backward and again: what the host launches."""
    model_flops: Number
    """The same without recomputation: what MFU counts."""


def micro_batch_work(
    model: ModelSpec, settings: Settings, objective: ObjectiveCost, length: Number, *, trained: bool
) -> Work:
    """FLOPs and bytes of one micro-batch of sequences padded to `length` tokens."""
    again = {"none": 0.0, "full": 1.0, "selective": SELECTIVE_RECOMPUTED}
    c = again[settings.gradient_checkpointing]
    own = 1.0 if trained else 0.0
    sequences = settings.micro_batch_size * objective.sequences
    source = length
    if model.family == "encdec":
        length = settings.max_target_length
    tokens = sequences * length
    frozen = objective.frozen_forwards
    linear: Number = 0.0
    attention: Number = 0.0
    elementwise: Number = 0.0
    useful: Number = 0.0
    unpacked: Number = 0.0
    passes = 0.0
    for block in model.blocks:
        own_length = source if block.stream == "source" else length
        block_tokens, keys = _tokens(model, block, settings, sequences, own_length)
        weights = block.num_layers * active_weights(block)
        product = 2.0 * weights * block_tokens
        scores = 2.0 * block.num_layers * _attention_width(block) * keys * block_tokens
        linear = linear + product * (2 + c + own + frozen)
        attention = attention + scores * (1 + c + ATTENTION_BACKWARD + frozen)
        useful = useful + product * (2 + own) + scores * (1 + ATTENTION_BACKWARD)
        stream = HALF_BYTES * block.num_layers * block.hidden_size * block_tokens
        elementwise = elementwise + stream * (2.5 + c + frozen)
        unpacked = unpacked + HALF_BYTES * block.num_linear_weights * (2 + c + frozen)
        passes += block.num_layers * (2 + c + frozen)
    head = 0 if objective.classifies or model.family == "encoder" else _head_weights(model)
    head_product = 2.0 * head * tokens
    fused = 1.0 if settings.loss_kernel in ("chunked", "fused_linear") else 0.0
    linear = linear + head_product * (2 + own + fused + frozen)
    useful = useful + head_product * (2 + own)
    logits = FP32_BYTES * model.vocab_size * tokens if head else 0
    return Work(
        linear_flops=linear,
        attention_flops=attention,
        elementwise_bytes=elementwise,
        logit_bytes=logits * (CROSS_ENTROPY_PASSES + frozen),
        dequantized_bytes=0 if settings.quantization == "none" else unpacked,
        layer_passes=passes,
        model_flops=useful,
    )


def active_weights(block: Block) -> float:
    """Matrix elements of one layer that a token is multiplied with."""
    return float(sum(_active(block, linear) for linear in block.linears))


def _active(block: Block, linear: Linear) -> float:
    if linear.part != "experts":
        return linear.num_weights
    return linear.num_weights * block.mlp.experts_per_token / max(block.mlp.num_experts, 1)


def _attention_width(block: Block) -> float:
    """Features of q times k and of scores times v, all heads; half of them under a causal mask."""
    a = block.attention
    width = a.num_heads * (a.head_dim + a.v_head_dim)
    return width * (0.5 if a.causal else 1.0)


def _tokens(
    model: ModelSpec,
    block: Block,
    settings: Settings,
    sequences: Number,
    length: Number,
) -> tuple[Number, Number]:
    """Tokens of a micro-batch in a block's stream, and keys of a query."""
    if block.stream == "image":
        crop = model.image_patches / max(model.image_crops, 1)
        return sequences * model.image_patches * settings.num_images, crop
    window = block.attention.sliding_window
    return sequences * length, length if window is None else smallest(length, window)


def _head_weights(model: ModelSpec) -> int:
    return model.vocab_size * model.embedding_width


def parameter_bytes(settings: Settings) -> int:
    """Bytes of one base parameter as several GPUs exchange it."""
    if settings.autocast != "none":
        return HALF_BYTES
    return DTYPE_BYTES[settings.weights_dtype]
