"""What the norms of a layer keep for backward, by how their code is written.

All figures are bytes per token. Source: transformers/models/*/modeling_*.py; each kind is a value
of `schema.model.Traits.norm`.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.schema.model import Block, NormCode

STATISTICS_BYTES = {"ln": 2 * FP32_BYTES, "ln_np": 2 * FP32_BYTES}
"""Mean and inverse deviation; all others keep one statistic."""


NORMS_OF_A_LAYER = {
    "pre": 2, "parallel": 1, "parallel2": 2, "sandwich": 4, "post_out": 2, "post": 2,
}  # fmt: skip


class NormBytes(NamedTuple):
    """What a layer's norms keep, and how much of it is the layer's own input."""

    kept: float
    is_input: float
    """Shared with the layer's checkpoint."""


def norm_saved(kind: NormCode, width: int, groups: int, n: Numerics, *, wide: bool) -> float:
    """Bytes per token that a norm over `groups` slices of `width` features in all keeps.

    `wide`: its input is fp32 already, and then is what is kept. RMSNorm as Transformers writes it
    keeps an fp32 copy of its input and one fp32 statistic; with a trained weight also the
    normalised copy that the weight multiplies, in the dtype that the code gives it. torch's
    LayerNorm keeps its input and two statistics; autocast runs it in fp32, which makes a copy.
    """
    statistics = STATISTICS_BYTES.get(kind, FP32_BYTES) * groups
    if kind == "ln":
        return (FP32_BYTES if wide or n.autocast else n.residual) * width + statistics
    if kind == "ln_cohere":
        kept = 2 * FP32_BYTES * width
        return kept + (FP32_BYTES * width if n.trained else 0) + statistics
    kept = float(FP32_BYTES * width + statistics)
    if kind == "rms_t5" and not wide:
        kept += HALF_BYTES * width
    if n.trained and kind != "ln_np":
        kept += width * ((FP32_BYTES if wide else HALF_BYTES) if kind == "rms" else FP32_BYTES)
    return kept


def layer_norms(block: Block, n: Numerics, *, fused: bool) -> NormBytes:
    """What the norms around attention and feed-forward keep."""
    if block.norm == "none" and block.traits.norm != "ln_np":
        return NormBytes(0.0, 0.0)
    count = NORMS_OF_A_LAYER[block.traits.place] + (1 if block.cross_attention else 0)
    h, kind = block.hidden_size, block.traits.norm
    stream = residual_bytes(block, n)
    if fused:
        # A fused kernel keeps its input as it is, and the statistics.
        one = n.residual * h + STATISTICS_BYTES.get(kind, FP32_BYTES)
        return NormBytes(float(count * one), float(n.residual * h))
    wide = stream == FP32_BYTES
    # Norms behind a sub-layer read what its matrix puts out, those before it the residual stream.
    behind = {"sandwich": count - 2, "post_out": count}.get(block.traits.place, 0)
    before = count - behind
    kept = before * norm_saved(kind, h, 1, n, wide=wide)
    kept += behind * norm_saved(kind, h, 1, n, wide=n.compute == FP32_BYTES)
    keeps_input = wide or (kind == "ln" and not n.autocast)
    if block.traits.place == "parallel2" and keeps_input:
        # Two norms of one input keep it once.
        kept -= stream * h
    # A norm behind the sum keeps that, not the layer's input.
    own = keeps_input and before and block.traits.place != "post"
    shared = stream * h if own else 0.0
    return NormBytes(kept, shared)


def residual_bytes(block: Block, n: Numerics) -> int:
    """Bytes of a feature of the residual stream: LayerNorm after the sum (BERT) puts out fp32 under
    autocast, and the stream with it."""
    post = block.traits.place == "post" and block.traits.norm == "ln"
    return FP32_BYTES if n.autocast and post else n.residual


def qk_norms(block: Block, n: Numerics, *, fused: bool) -> float:
    """What norms over queries and keys keep [bytes per token].

    `fused`: Liger's kernel, which replaces a model's RMSNorms all alike.
    """
    a = block.attention
    if a.qk_norm == "none":
        return 0.0
    heads = a.qk_norm == "head"
    if fused:
        statistics = a.num_heads + a.num_kv_heads if heads else 2
        return float(n.compute * (a.q_width + a.k_width) + FP32_BYTES * statistics)
    # The full-width form of OLMo 2 multiplies its weight in fp32, as its other norms do.
    kind = block.traits.norm if block.traits.norm.startswith("rms") else "rms"
    wide = n.compute == FP32_BYTES
    q = norm_saved(kind, a.q_width, a.num_heads if heads else 1, n, wide=wide)
    return q + norm_saved(kind, a.k_width, a.num_kv_heads if heads else 1, n, wide=wide)


def feeds_fp32(block: Block, n: Numerics) -> bool:
    """Whether the matrices after a norm are handed fp32, which autocast copies for each of them."""
    if n.residual == FP32_BYTES:
        return True
    return n.autocast and block.traits.norm == "ln" and block.norm != "none"
