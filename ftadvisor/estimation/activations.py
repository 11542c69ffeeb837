"""Which tensors one layer keeps from forward to backward, and what its backward needs besides.

All figures are bytes per token of the micro-batch (`saved_per_key`: per token and key, for what
grows with the square of the length). The method is reading each module's forward and asking of
every operation what autograd saves: a matrix product saves its input only where its weight is
trained, a product of two activations saves both, a norm saves its input and a statistic, and so on.
Norms, attention and feed-forward have modules of their own; here they are put together.
Source: transformers/models/*/modeling_*.py, torch/csrc/autograd/derivatives.yaml.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.attention import (
    PLACES_BYTES,
    AttentionBytes,
    alibi_scores,
    attention_saved,
    disentangled_saved,
)
from ftadvisor.estimation.feedforward import mlp_saved, passing_bytes
from ftadvisor.estimation.norms import feeds_fp32, layer_norms, qk_norms, residual_bytes
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.estimation.objectives import is_generated, rows_of
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer


class LayerActivations(NamedTuple):
    """What one layer costs while it trains; bytes per token unless the name says otherwise."""

    saved: Number
    """Kept from this layer's forward until its backward."""
    saved_per_key: Number
    """The same, per token and key."""
    of_mlp: Number
    """The feed-forward part's share of `saved`."""
    is_input: float
    """The part of `saved` that is the layer's own input: shared with its checkpoint."""
    whole: Number
    """`saved` less what grows with the keys, the gradient that arrives and the stream's sum: where
    the last matrix runs forward."""
    at_product: Number
    """Alive where the MLP's gradients are formed, the layer's saved tensors included."""
    at_matrix: Number
    """Alive while the first matrix works: its weight-sized temporary comes on top."""
    at_bias: Number
    """Alive where the gradient of the first MLP matrix's bias is summed, the partial sums apart."""
    at_attention: Number
    """Alive in the attention's backward, where the MLP's tensors are gone."""
    attention_per_key: Number
    """The same, per token and key."""
    forward: float
    """The most that is alive at once in the layer's forward where nothing is kept."""
    at_end: Number
    """Alive where a norm after the sum ends the layer's second forward, what grows with the keys
    not counted; 0: the second forward stops before."""


def input_copies(block: Block, n: Numerics) -> float:
    """Bytes per token of matrix inputs kept because their weights train.

    q, k and v share one input, gate and up another; the output projection reads the attention's
    kept output and the down projection's input is counted by the MLP. Autocast of an fp32 input
    copies it once per matrix.
    """
    if not n.trained:
        return 0.0
    h = block.hidden_size
    wide = feeds_fp32(block, n)
    if n.autocast and wide:
        readers = sum(1 for x in block.linears if x.in_features == h and x.part != "experts")
        last = 1 if block.attention.out_width == h else 0
        return float(HALF_BYTES * h * (readers - last))
    inputs = 1 if block.traits.place == "parallel" else 2
    return float((FP32_BYTES if wide else HALF_BYTES) * h * inputs)


def layer_activations(
    model: ModelSpec, block: Block, settings: Settings, n: Numerics, trainer: Trainer
) -> LayerActivations:
    """What one layer of a block keeps and needs; bytes per token, adapters not included.

    With a mask where the batch has one: one sequence alone is not padded, and Transformers drops a
    mask of ones (masking_utils.py, _ignore_causal_mask_sdpa); lit-gpt pads on the right and relies
    on causality.
    """
    if settings.packing or trainer.model_code == "litgpt":
        masked = packing_needs_mask(settings, trainer)
        return _layer(model, block, settings, n, trainer, masked=masked)
    several = is_padded(settings)
    if isinstance(several, bool):
        return _layer(model, block, settings, n, trainer, masked=several)
    padded = _layer(model, block, settings, n, trainer, masked=True)
    alone = _layer(model, block, settings, n, trainer, masked=False)
    return LayerActivations(*(select(several, a, b) for a, b in zip(padded, alone, strict=True)))


def cross_attention_saved(block: Block, n: Numerics, settings: Settings, per_key: float) -> Number:
    """What a decoder's attention to its source keeps [bytes per target token].

    `per_key`: what its attention to the target keeps per key, mask or scores; the same here.

    Queries, output and a statistic per head of the target's tokens; keys and values of the source's
    (copied into the cache), and under autocast the half-precision copies that both projections make
    of the source where they train: `input_copies` counts those as if the source were as long as the
    target.
    Ref: transformers/models/t5/modeling_t5.py, T5Attention; bart/modeling_bart.py.
    """
    a, c = block.attention, n.attention
    per_target = settings.longest_length / settings.max_target_length
    copied = n.trained and n.autocast and feeds_fp32(block, n)
    copies = 2 * HALF_BYTES * block.hidden_size if copied else 0
    own = c * (a.q_width + a.out_width) + FP32_BYTES * a.num_heads
    keys = per_key * settings.longest_length
    return own + c * (a.k_width + a.v_width) * per_target + copies * (per_target - 1) + keys


def is_padded(settings: Settings) -> Any:
    """Whether a batch holds samples of different lengths: a truth value, or an array of them.

    A pair is two rows; generated completions end where they end.
    """
    if settings.packing:
        return False
    rows = settings.micro_batch_size * rows_of(settings.objective)
    varies = is_generated(settings.objective) or settings.typical_length > 0
    return (rows > 1) & varies


def packing_needs_mask(settings: Settings, trainer: Trainer) -> bool:
    """Whether packed samples are told apart by a boolean mask over the flattened micro-batch.

    Flash attention takes the samples' bounds instead; continued pretraining joins its texts without
    keeping them apart. Ref: trl/trainer/sft_trainer.py (padding_free, packing_strategy "bfd" and
    "wrapped"); transformers/masking_utils.py, find_packed_sequence_indices.
    """
    apart = settings.packing and trainer.packing_masks and settings.objective != "cpt"
    return apart and settings.attn_implementation != "flash_attention_2"


def _attention(
    model: ModelSpec,
    block: Block,
    settings: Settings,
    n: Numerics,
    trainer: Trainer,
    *,
    masked: bool,
) -> AttentionBytes:
    kernel = settings.attn_implementation
    attention = attention_saved(model.model_type, block, n, kernel, trainer, padded=masked)
    if kernel == "sdpa" and block.attention.position == "relative" and not masked:
        # Without a mask all sequences share the positions'.
        rows = settings.micro_batch_size
        attention = attention._replace(
            per_key=attention.per_key / rows, working_per_key=attention.working_per_key / rows
        )
    if block.traits.alibi_mask and kernel == "eager":
        checkpointed = settings.gradient_checkpointing != "none"
        forward = alibi_scores(block, n, checkpointed=checkpointed)
        widest = max(attention.working_per_key, forward)
        attention = attention._replace(working_per_key=widest)
    if block.attention.scored_positions:
        positions = disentangled_saved(block, n, settings.longest_length)
        attention = attention._replace(
            kept=attention.kept + positions,
            working=attention.working + positions,
            per_key=attention.per_key + PLACES_BYTES / settings.micro_batch_size,
        )
    if block.cross_attention:
        across = cross_attention_saved(block, n, settings, attention.per_key)
        working = attention.working + across
        attention = attention._replace(kept=attention.kept + across, working=working)
    return attention


def _layer(
    model: ModelSpec,
    block: Block,
    settings: Settings,
    n: Numerics,
    trainer: Trainer,
    *,
    masked: bool,
) -> LayerActivations:
    norms = layer_norms(block, n, fused=settings.fused_norm or trainer.low_precision_norm)
    attention = _attention(model, block, settings, n, trainer, masked=masked)
    mlp = mlp_saved(block, n, fused=settings.fused_mlp, grouped=trainer.grouped_experts)
    h, stream = block.hidden_size, residual_bytes(block, n)
    rest = norms.kept + qk_norms(block, n, fused=settings.fused_norm) + input_copies(block, n)
    rest = rest + block.traits.residual_dropouts * n.dropout_mask * h
    kept = rest + attention.kept
    # The gradient that arrives; a reentrant checkpoint's output is alive beside it.
    recomputed = settings.gradient_checkpointing != "none" and trainer.reentrant_checkpointing
    passing = (2 if recomputed else 1) * stream * h
    width = block.mlp.intermediate_size
    heads = n.attention * (block.attention.q_width + 2 * block.attention.k_width)
    # A gated part's caller hands it the norm's output and holds that.
    fed = n.residual * h if block.mlp.gated else 0
    forward = max(passing_bytes(block, n, grouped=trainer.grouped_experts) + fed, heads)
    return LayerActivations(
        saved=rest + attention.kept + mlp.kept,
        saved_per_key=attention.per_key,
        of_mlp=mlp.kept / (kept + mlp.kept),
        is_input=norms.is_input or _read_as_it_is(block, n, stream),
        whole=kept + mlp.kept + 2 * stream * h,
        at_product=kept + mlp.peak + passing,
        at_matrix=kept + mlp.kept + (HALF_BYTES if n.kbit else n.compute) * width + passing,
        at_bias=kept + n.compute * (width + h) + passing,
        at_attention=rest + attention.working + passing,
        attention_per_key=attention.working_per_key,
        forward=forward + 2 * n.residual * h,
        at_end=kept + mlp.kept + _end(block, n, stream) if block.traits.place == "post" else 0,
    )


def _read_as_it_is(block: Block, n: Numerics, stream: int) -> int:
    """Of a stream that norms follow, what its trained matrices keep: no copy in half precision."""
    copied = n.autocast and feeds_fp32(block, n)
    kept = block.traits.place == "post" and n.trained and not copied
    return stream * block.hidden_size if kept else 0


def _end(block: Block, n: Numerics, stream: int) -> int:
    """Besides what a layer keeps: the gradient that arrives, the layer's output and the first
    norm's, which is added to it; what the caller of BERT's output module still holds, the
    activation, and the module its matrix's output.
    Ref: transformers/models/bert/modeling_bert.py, BertLayer.feed_forward_chunk and BertOutput.
    """
    paired = block.stream == "source" or block.cross_attention
    held = 0 if paired else n.compute * block.hidden_size
    called = all(x.name == "dense" for x in block.linears if x.part == "mlp")
    if called and not n.trained:
        held += n.compute * block.mlp.intermediate_size
    streams = 2 if _read_as_it_is(block, n, stream) else 3
    return streams * stream * block.hidden_size + held
