"""What the attention kernels keep for backward.

Flash attention keeps q, k, v, its output and one fp32 log-sum-exp per head. The mask of a padded
batch sends SDPA to the memory-efficient kernel: keys and values are expanded to all heads and a
mask in the compute dtype is made per layer. Eager attention keeps the softmax, and its copy in the
compute dtype, per head and key. Ref: transformers/integrations/sdpa_attention.py,
torch/csrc/autograd/derivatives.yaml.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.numerics import FP32_BYTES, Numerics
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import AttnImplementation, Number
from ftadvisor.schema.trainer import Trainer


class AttentionBytes(NamedTuple):
    """Bytes per token, and per token and key."""

    kept: Number
    per_key: Number
    working: Number
    """Alive at once in its backward, what it has kept included."""
    working_per_key: Number


def attention_saved(
    model_type: str,
    block: Block,
    n: Numerics,
    implementation: AttnImplementation,
    trainer: Trainer,
    *,
    padded: bool,
) -> AttentionBytes:
    """What one layer's attention keeps; a single head of keys is expanded without a copy (MQA)."""
    a, traits = block.attention, block.traits
    grouped = a.num_heads != a.num_kv_heads and a.num_kv_heads > 1
    if implementation == "eager":
        return _eager(block, n)
    biased = implementation == "sdpa" and a.position == "relative"
    masked = implementation == "sdpa" and (padded or traits.always_mask or biased)
    shared = a.num_heads != a.num_kv_heads
    if implementation == "sdpa" and traits.broadcasts_heads and shared and not grouped:
        return _math(block, n)
    formed = shared and n.attention == FP32_BYTES and not trainer.cpu_kernels
    # Neither fused kernel takes grouped heads in fp32: the scores are formed.
    if implementation == "sdpa" and not masked and formed:
        return _math(block, n)
    wide = grouped and (masked or model_type in trainer.repeats_kv)
    if traits.alibi_mask and implementation == "sdpa":
        return _with_alibi_mask(block, n)
    c = n.attention
    kv = a.num_heads * (a.head_dim + a.v_head_dim) if wide else a.k_width + a.v_width
    kept = c * (a.q_width + kv + a.out_width) + FP32_BYTES * a.num_heads
    if trainer.keeps_fused_qkv:
        # lit-gpt repeats keys for grouped heads and keeps v as a view of the fused output.
        k = a.num_heads * a.head_dim if grouped else a.k_width
        kept = c * (2 * a.q_width + k + a.k_width + a.v_width + a.out_width)
        kept += FP32_BYTES * a.num_heads
    elif a.fused_qkv and traits.rope != "none" and n.compute == c:
        # v is a view of the fused output, which stays whole; rotated q and k are new tensors.
        kept += 0 if wide else c * (a.q_width + a.k_width)
    elif a.fused_qkv and wide:
        kept += c * (a.q_width + a.k_width + a.v_width)
    flash = not masked and c != FP32_BYTES
    if traits.rope == "cat" and flash and n.trained and not trainer.keeps_fused_qkv:
        # torch.cat's layout makes the output projection copy the attention's output.
        kept += c * a.out_width
    # Relative positions are a mask of its own for each head (sdpa_attention.py,
    # create_position_bias_mask).
    per_key = float(c * (a.num_heads if biased else 1) if masked else 0)
    whole = float(kept) + _latents(block, n)
    working = 2 * whole + _scratch(block, c, trainer, flash=not masked)
    # A mask has no gradient, learned positions have one.
    return AttentionBytes(whole, per_key, working, per_key * (2 if biased and n.trained else 1))


LARGEST_IN_REGISTERS = 128
"""Head width up to which the memory-efficient kernel adds up the gradients of keys and values in
registers (mem_eff_attention/kernel_backward.h, workspace_elements_gk)."""


def _scratch(block: Block, element: int, trainer: Trainer, *, flash: bool) -> int:
    """What a kernel's backward adds up in fp32: the gradient of queries, and beyond the registers
    of keys and values; flash attention forms those for all query heads, whatever the groups.
    Ref: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd (dq_accum,
    dk_expanded); attention_backward.cu.
    """
    a = block.attention
    if element == FP32_BYTES or trainer.cpu_kernels:
        return 0
    both = a.num_heads * (a.head_dim + a.v_head_dim)
    further = 0
    if flash and a.num_heads != a.num_kv_heads:
        further = element * both
    elif not flash and a.head_dim > LARGEST_IN_REGISTERS:
        further = FP32_BYTES * both
    return FP32_BYTES * a.q_width + further


def _with_alibi_mask(block: Block, n: Numerics) -> AttentionBytes:
    """SDPA with a mask for each head, made once for all layers (`Terms.mask_bytes`), of which
    autocast hands each layer a copy in half precision. Ref: aten/src/ATen/autocast_mode.h,
    AT_FORALL_LOWER_PRECISION_FP; transformers/models/falcon/modeling_falcon.py, FalconModel.
    """
    a, c = block.attention, n.attention
    kept = float(c * (a.q_width + a.k_width + a.v_width + a.out_width) + FP32_BYTES * a.num_heads)
    per_key = float(c * a.num_heads if n.autocast else 0)
    return AttentionBytes(kept, per_key, 2 * kept, per_key + n.residual * a.num_heads)


def alibi_scores(block: Block, n: Numerics, *, checkpointed: bool) -> float:
    """Bytes per token and key where eager attention adds ALiBi and a mask: the scores as they are
    multiplied and in fp32, with ALiBi, with the mask, that in the softmax's dtype, the softmax.

    The previous layer's softmax, which the stack's loop still holds, is kept anyway where nothing
    is checkpointed, but then nothing else holds the mask. Ref:
    transformers/models/falcon/modeling_falcon.py, FalconAttention.forward, FalconModel.forward.
    """
    c = n.attention
    softmax = FP32_BYTES if n.autocast else c
    scores = FP32_BYTES + (c if c != FP32_BYTES else 0)
    cast = softmax if softmax != FP32_BYTES else 0
    held = softmax if checkpointed else n.residual
    return float(block.attention.num_heads * (scores + 2 * FP32_BYTES + cast + softmax + held))


def _latents(block: Block, n: Numerics) -> float:
    """Multi-head latent attention: the whole expansion of keys and values stays, for the values are
    a view of it; the norms over both latents keep an fp32 copy, and when trained one more."""
    a = block.attention
    if not a.latent_dim:
        return 0.0
    unrotated = a.num_heads * (a.head_dim - a.rotary_dim)
    normed = a.latent_dim + a.q_latent_dim
    return float(n.attention * unrotated + normed * FP32_BYTES * (2 if n.trained else 1))


PLACES_BYTES = 16
"""Where each key lies from a token, as gather keeps it, from content to positions and back: two
int64, the same for all heads and sequences (DeBERTa)."""


def disentangled_saved(block: Block, n: Numerics, length: Number) -> float:
    """What scores of relative positions keep per token: gather keeps all of them to choose from,
    each sequence its own copy of the positions' keys and queries, and the keys are divided by the
    scale in a copy. The encoder collects what all layers put out, which matrices that train keep
    anyway. Ref: transformers/models/deberta_v2/modeling_deberta_v2.py, disentangled_attention_bias
    and DebertaV2Model.forward (output_hidden_states=True).
    """
    a = block.attention
    scored = a.scored_positions * (a.num_heads + a.q_width / length)
    collected = 0 if n.trained else n.residual * block.hidden_size
    return n.attention * (scored + a.k_width) + collected


def _scores(block: Block, n: Numerics) -> float:
    """Bytes per head, token and key of the softmax and what follows it."""
    traits, c = block.traits, n.attention
    if traits.softmax == "stated":
        kept = _stated(n) + (c if _stated(n) != c else 0)
        kept += c + n.dropout_mask if traits.attention_dropout else 0
    elif c == FP32_BYTES:
        kept = FP32_BYTES + (c + n.dropout_mask if traits.attention_dropout else 0)
    elif traits.softmax == "fp32" or n.autocast:
        kept = FP32_BYTES + c + (n.dropout_mask if traits.attention_dropout else 0)
    else:
        kept = c + (c + n.dropout_mask if traits.attention_dropout else 0)
    return kept + (c if block.attention.score_softcap else 0)


def _stated(n: Numerics) -> int:
    """Bytes of a softmax in the dtype of its scores, which are a sum with the mask, in the
    embedding's dtype."""
    return FP32_BYTES if n.outside == FP32_BYTES else n.attention


def _eager(block: Block, n: Numerics) -> AttentionBytes:
    a, c = block.attention, n.attention
    kept = c * (a.q_width + a.num_heads * (a.head_dim + a.v_head_dim))
    if n.trained:
        kept += c * a.out_width
    if block.traits.upcast_qk and c != FP32_BYTES and not n.autocast:
        kept += FP32_BYTES * a.q_width
    softmax = FP32_BYTES if block.traits.softmax == "fp32" or n.autocast else c
    if block.traits.softmax == "stated":
        softmax = _stated(n)
    return _with_scores(float(kept), float(_scores(block, n)), softmax, block, n)


def _with_scores(
    kept: float, scores: float, softmax: int, block: Block, n: Numerics
) -> AttentionBytes:
    """With the softmax's backward, which holds the softmax, its gradient, the product of both and
    the gradient of the scores. Ref: aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda.
    """
    a = block.attention
    capped = n.attention if a.score_softcap else 0
    return AttentionBytes(
        kept=kept,
        per_key=scores * a.num_heads,
        working=kept + n.attention * a.out_width,
        working_per_key=float((4 * softmax + capped) * a.num_heads),
    )


def _math(block: Block, n: Numerics) -> AttentionBytes:
    """SDPA's own operations, in fp32 whatever it is given (aten/src/ATen/native/transformers/
    attention.cpp, _scaled_dot_product_attention_math)."""
    a, c = block.attention, FP32_BYTES
    kept = c * (a.q_width + a.num_heads * (a.head_dim + a.v_head_dim))
    kept += n.attention * a.out_width if n.trained else 0
    dropped = c + n.dropout_mask if block.traits.attention_dropout else 0
    return _with_scores(float(kept), float(FP32_BYTES + dropped), FP32_BYTES, block, n)
