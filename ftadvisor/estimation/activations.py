"""Which tensors one layer keeps from forward to backward, and what its backward needs besides.

All figures are bytes per token of the micro-batch (`saved_per_key`: per token and key, for what
grows with the square of the length). The method is reading each module's forward and asking of
every operation what autograd saves: a matrix product saves its input only where its weight is
trained, a product of two activations saves both, a norm saves its input and a statistic, and so on.
Source: transformers/models/*/modeling_*.py, torch/csrc/autograd/derivatives.yaml.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.schema.settings import AttnImplementation, Settings
from ftadvisor.schema.trainer import Trainer

# Elementwise copies of the activation's width that autograd keeps, beyond its input: tanh-GELU
# spelled out in Python (NewGELUActivation) keeps x**3's base, the tanh and two products.
EXTRA_ACT_COPIES = {"gelu_new": 3, "gelu_fast": 3, "quick_gelu": 1, "relu2": 1}


class LayerActivations(NamedTuple):
    """What one layer costs while it trains; bytes per token unless the name says otherwise."""

    saved: float
    """Kept from this layer's forward until its backward."""
    saved_per_key: float
    """The same, per token and key."""
    is_input: float
    """The part of `saved` that is the layer's own input: shared with its checkpoint."""
    at_product: float
    """Alive where the MLP's gradients are formed, the layer's saved tensors included."""
    at_matrix: float
    """Alive while the first matrix works: its weight-sized temporary comes on top."""
    at_attention: float
    """Alive in the attention's backward, where the MLP's tensors are gone."""
    attention_per_key: float
    """The same, per token and key."""
    forward: float
    """The most that is alive at once in the layer's forward where nothing is kept."""


def norm_saved(kind: str, width: int, n: Numerics, *, fused: bool) -> tuple[float, float]:
    """Bytes per token that a norm keeps, and how many of them are its input itself.

    RMSNorm as Transformers writes it (LlamaRMSNorm) keeps an fp32 copy of its input and one fp32
    statistic; with a trained weight also the normalised copy that the weight multiplies. A fused
    kernel and torch's LayerNorm keep the input as it is and one or two statistics; autocast runs
    LayerNorm in fp32, which copies a half-precision input.
    """
    if kind == "none":
        return 0.0, 0.0
    own = n.residual * width
    if kind == "layer":
        if n.autocast and n.residual != FP32_BYTES and not fused:
            return FP32_BYTES * width + 2 * FP32_BYTES, 0.0
        return own + 2 * FP32_BYTES, own
    if fused:
        return own + FP32_BYTES, own
    kept = FP32_BYTES * width + FP32_BYTES
    shared = own if n.residual == FP32_BYTES else 0.0
    return kept + (own if n.trained else 0.0), shared


def attention_saved(
    block: Block,
    n: Numerics,
    implementation: AttnImplementation,
    *,
    masked: bool,
    repeats_kv: bool,
    keeps_fused_qkv: bool,
) -> tuple[float, float]:
    """Bytes per token, and per token and key, that the attention kernel keeps.

    Flash attention keeps q, k, v, its output and one fp32 log-sum-exp per head. The mask of a
    padded batch sends SDPA to the memory-efficient kernel: keys and values are expanded to all
    heads and a half-precision mask is made per layer. Eager attention keeps the fp32 softmax and
    its half-precision copy, per head and key.
    """
    a = block.attention
    q, k, v, out = a.q_width, a.k_width, a.v_width, a.out_width
    c = n.attention
    expanded = a.num_heads != a.num_kv_heads
    if implementation == "eager":
        scores = FP32_BYTES + (c if c != FP32_BYTES else 0)
        if a.score_softcap:
            scores += c
        wide_kv = a.num_heads * (a.head_dim + a.v_head_dim)
        kept_out = c * out if n.trained else 0.0
        return c * (q + wide_kv) + kept_out, scores * a.num_heads
    stats = FP32_BYTES * a.num_heads
    if implementation == "sdpa" and masked:
        kv = a.num_heads * (a.head_dim + a.v_head_dim) if expanded else k + v
        return c * (q + kv + out) + stats, c
    if keeps_fused_qkv:
        kv = a.num_heads * a.head_dim if expanded else k
        return c * (q + kv + (q + k + v) + out) + stats, 0.0
    if repeats_kv and expanded:
        return c * (q + a.num_heads * (a.head_dim + a.v_head_dim) + out) + stats, 0.0
    return c * (q + k + v + out) + stats, 0.0


def mlp_saved(block: Block, n: Numerics, *, fused: bool) -> tuple[float, float]:
    """Bytes per token that the feed-forward part keeps, and the most alive in its backward.

    Gated: the gate (for the activation's derivative), its activation and the up projection (for
    their product), and the product where the down projection trains; the backward forms three
    gradients of that width. Plain: the first projection's output, and the activation where the
    second projection trains. A fused kernel recomputes the activation.
    """
    m, c = block.mlp, n.compute
    width = m.intermediate_size
    copies = EXTRA_ACT_COPIES.get(m.act, 0)
    if m.gated:
        kept = (2 if fused else 3 + copies) * c * width
        at_product = kept + 3 * c * width
    else:
        kept = (1 + copies) * c * width
        at_product = kept + 2 * c * width
    product = c * width if n.trained else 0.0
    shared = c * 3 * m.shared_intermediate_size * (2 if m.gated else 1)
    if m.num_experts:
        h = block.hidden_size
        routed = m.experts_per_token * (kept + product + c * h) + 2 * c * h
        # A loop over experts works on one expert's share of the tokens at a time.
        working = m.experts_per_token * 3 * c * width / m.num_experts
        return routed + shared, routed + shared + working
    return kept + product + shared, at_product + shared


def input_copies(block: Block, n: Numerics) -> float:
    """Bytes per token of matrix inputs kept because their weights train.

    q, k and v share one input, gate and up another; the output projection reads the attention's
    kept output and the down projection's input is counted by the MLP. Autocast of an fp32 stream
    copies the input once per matrix.
    """
    if not n.trained:
        return 0.0
    h, c = block.hidden_size, n.compute
    readers = [
        linear for linear in block.linears if linear.in_features == h and linear.part != "experts"
    ]
    if n.recasts_input:
        return c * h * len(readers)
    return c * h * (1 if block.parallel else 2)


def layer_activations(
    model: ModelSpec, block: Block, settings: Settings, n: Numerics, trainer: Trainer
) -> LayerActivations:
    """What one layer of a block keeps and needs; bytes per token, adapters not included."""
    # lit-gpt pads on the right and relies on causality: it passes no mask.
    masked = not settings.packing and trainer.model_code != "litgpt"
    widths = [w for w in block.norm_widths if w == block.hidden_size]
    fused = settings.fused_norm or trainer.low_precision_norm
    norms = [norm_saved(block.norm, w, n, fused=fused) for w in widths]
    norm_bytes = sum(kept for kept, _ in norms)
    qk = _qk_norm_saved(block, n)
    att, att_key = attention_saved(
        block,
        n,
        settings.attn_implementation,
        masked=masked,
        repeats_kv=model.model_type in trainer.repeats_kv,
        keeps_fused_qkv=trainer.keeps_fused_qkv,
    )
    mlp, mlp_peak = mlp_saved(block, n, fused=settings.fused_mlp)
    inputs = input_copies(block, n)
    dropout = 2 * block.hidden_size * (1 if block.hidden_dropout else 0)
    saved = norm_bytes + qk + att + mlp + inputs + dropout
    h = block.hidden_size
    # The gradient that arrives and the recomputed output are alive beside the MLP's gradients.
    passing = 2 * n.residual * h
    rest = norm_bytes + qk + inputs + dropout + passing
    q_out = n.attention * (block.attention.q_width + 2 * block.attention.k_width)
    forward = max((3 if block.mlp.gated else 2) * n.compute * block.mlp.intermediate_size, q_out)
    return LayerActivations(
        saved=saved,
        saved_per_key=att_key,
        is_input=norms[0][1] if norms else 0.0,
        at_product=rest + att + mlp_peak,
        at_matrix=rest + att + mlp + n.compute * block.mlp.intermediate_size,
        at_attention=rest + 2 * att,
        attention_per_key=2 * att_key,
        forward=forward + 2 * n.residual * h,
    )


def _qk_norm_saved(block: Block, n: Numerics) -> float:
    a = block.attention
    if a.qk_norm == "none":
        return 0.0
    # The norms over q and k keep an fp32 copy and a statistic per head (Qwen3RMSNorm); trained
    # weights add the normalised copy.
    width = a.q_width + a.k_width
    heads = a.num_heads + a.num_kv_heads if a.qk_norm == "head" else 2
    return (FP32_BYTES + (HALF_BYTES if n.trained else 0)) * width + FP32_BYTES * heads
