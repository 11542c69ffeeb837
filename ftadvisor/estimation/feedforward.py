"""What the feed-forward part keeps for backward: dense, gated or a mixture of experts.

Gated: the gate (for the activation's derivative), its activation and the up projection (for their
product), and the product where the down projection trains. Plain: the first projection's output,
and the activation where the second projection trains. A fused kernel recomputes the activation.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.schema.model import Block

INDEX_BYTES = 8
"""int64 indices of the routing: top-k, sort permutation, its quotient, its inverse."""
ROUTING_INDICES = 4


class MlpBytes(NamedTuple):
    """Bytes per token that are kept, and the most alive at once in the backward."""

    kept: float
    peak: float


def mlp_saved(block: Block, n: Numerics, *, fused: bool, grouped: bool) -> MlpBytes:
    """What one layer's feed-forward part keeps and needs; `grouped`: how experts are run."""
    m, c = block.mlp, n.compute
    if m.num_experts:
        return _grouped_experts(block, n) if grouped else _looped_experts(block, n)
    width = m.intermediate_size
    if m.gated:
        kept = (2 if fused else 3 + _clamps(m.act)) * c * width
        if block.traits.act == "gelu_new":
            # The activation's output comes in fp32 under autocast, and is kept for the product.
            kept = (activation_bytes(block, n) + (FP32_BYTES if n.autocast else c) + c) * width
        spelled = block.traits.act == "gelu_new" and n.autocast
        peak = kept + 3 * (FP32_BYTES if spelled else c) * width
    else:
        kept = activation_bytes(block, n) * width
        peak = kept + 2 * matrix_output_bytes(block, n) * width
        if block.traits.act == "gelu_new":
            # The gradients of its sums and products: of the output, and of both factors.
            peak = kept + 3 * (FP32_BYTES if n.autocast else c) * width
    kept += block.traits.mlp_dropouts * n.dropout_mask * width
    # ReLU's output, which it keeps, is what the second matrix reads.
    own = n.trained and (m.gated or block.traits.act != "relu" or block.traits.mlp_dropouts > 0)
    return MlpBytes(kept + (c * width if own else 0), peak)


def activation_bytes(block: Block, n: Numerics) -> float:
    """Bytes per feature that a plain activation keeps.

    silu, gelu and relu keep one tensor. tanh-GELU spelled out in Python (NewGELUActivation) keeps
    four; under autocast the power is an fp32 operation, and three of them are fp32.
    """
    if block.traits.act != "gelu_new":
        return matrix_output_bytes(block, n)
    return n.compute + 3 * FP32_BYTES if n.autocast else 4 * n.compute


def matrix_output_bytes(block: Block, n: Numerics) -> float:
    """Bytes of a feature of the first matrix's output: Falcon adds the bias as an operation of its
    own, which under autocast makes it the bias's dtype (models/falcon/modeling_falcon.py,
    FalconLinear.forward).
    """
    return n.weight if block.traits.own_linears and block.mlp_bias and n.autocast else n.compute


def _clamps(act: str) -> int:
    """Copies of the clamped SwiGLU of gpt-oss beyond those of a plain one."""
    return 3 if act == "swiglu_clamped" else 0


def _grouped_experts(block: Block, n: Numerics) -> MlpBytes:
    """A mixture through grouped matrix products.

    torch._grouped_mm is no autocast operation: experts run in the weights' dtype. Kept per routed
    token: the gathered input where the experts train, the fused gate and up, the activation, the
    product, and the output that the routing weight multiplies.
    """
    m, h, traits = block.mlp, block.hidden_size, block.traits
    e = n.weight
    k, own = m.experts_per_token, (1 if n.trained else 0)
    routed = k * (e * h * (1 + own) + (3 + _clamps(m.act) + own) * e * m.intermediate_size)
    routed += FP32_BYTES * m.num_experts + k * ROUTING_INDICES * INDEX_BYTES
    if traits.moe == "qwen":
        routed += k * (FP32_BYTES if n.compute == FP32_BYTES else HALF_BYTES)
    else:
        routed += k * 2 * FP32_BYTES + FP32_BYTES
    shared = (3 + own) * n.compute * m.shared_intermediate_size
    if m.shared_intermediate_size and traits.shared_expert_gate:
        shared += n.compute * (h + 1)
    # Forward ends with the gathered input, the weighted output and that in the tokens' order
    # (integrations/moe.py, grouped_mm_experts_forward); fp32 routing weights make both fp32.
    weighted = e if traits.moe == "qwen" else FP32_BYTES
    working = k * max(3 * e * m.intermediate_size, h * (e * (1 - own) + 2 * weighted))
    return MlpBytes(float(routed + shared), float(routed + shared + working))


def passing_bytes(block: Block, n: Numerics, *, grouped: bool) -> int:
    """The most alive at once in a feed-forward part where nothing is kept: a mixture's gathered
    input and what the experts put out, weighted and in the tokens' order, or their own features."""
    m, h = block.mlp, block.hidden_size
    if not m.num_experts or not grouped:
        return (3 if m.gated else 2) * n.compute * m.intermediate_size
    e = n.weight
    weighted = e if block.traits.moe == "qwen" else FP32_BYTES
    return m.experts_per_token * max(2 * h * (e + weighted), e * (h + 3 * m.intermediate_size))


def _looped_experts(block: Block, n: Numerics) -> MlpBytes:
    """A loop over experts (Transformers before 5), each on its share of the tokens."""
    m, h, c = block.mlp, block.hidden_size, n.compute
    own = 1 if n.trained else 0
    routed = m.experts_per_token * ((3 + own) * c * m.intermediate_size + c * h) + 2 * c * h
    shared = (3 + own) * c * m.shared_intermediate_size
    working = m.experts_per_token * 3 * c * m.intermediate_size / m.num_experts
    return MlpBytes(float(routed + shared), float(routed + shared + working))
