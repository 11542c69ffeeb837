"""Passes without gradients beside a step: the reference's forward, and generation."""

from __future__ import annotations

from ftadvisor.estimation.arithmetic import largest
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.estimation.phases import Phase, at_moment, cast_weights, in_loss, loss_kept
from ftadvisor.estimation.terms import Terms
from ftadvisor.schema.model import Block, Mlp, ModelSpec
from ftadvisor.schema.settings import Number

REFERENCE_WITHIN = frozenset({"dpo", "kto"})
"""Objectives whose reference runs while the policy's activations wait for their backward
(trl/trainer/dpo_trainer.py and kto_trainer.py, _compute_loss)."""
SAMPLING = 3
"""fp32 copies of one token's logits: themselves, probabilities, and their quotients by exponential
noise (transformers/generation/utils.py, _sample; aten/src/ATen/native/Distributions.cpp)."""


def reference_forward(t: Terms, base: Phase, saved: Number) -> Phase:
    """The reference reads the batch, its own fp32 weights cast as the policy's are."""
    widest = largest(*(x.tokens * x.activations.forward for x in t.layers))
    widest = widest + t.tokens * _embedded(t)
    waiting = cast_weights(t) if t.settings.gradient_checkpointing == "none" else 0
    own = cast_weights(t) if t.objective.frozen_models else 0
    return in_loss(t, base, saved + loss_kept(t) + widest, 0, waiting + own)


def generation(t: Terms, base: Phase) -> Phase:
    """Completions are generated: keys and values of every layer and token, one token's logits.

    All micro-batches of an optimizer step are answered at once (trl/trainer/grpo_trainer.py,
    steps_per_generation = gradient_accumulation_steps). Either the prompts are read, or the last
    token is: by then the cache is full, and growing it copies one layer's keys once more
    (transformers/cache_utils.py, DynamicLayer.update). Few tokens of a mixture copy the matrices of
    the experts that they need (integrations/moe.py, batched_mm).
    """
    rows = t.settings.micro_batch_size * t.settings.gradient_accumulation_steps
    completion = t.settings.max_completion_length
    prompts = rows * (t.length - completion)
    cached = cached_per_token(t.model, t.n)
    widest = largest(*(x.activations.forward + _wider(x.block, t.n) for x in t.layers))
    widest = widest + _embedded(t)
    reading = prompts * (cached + widest)
    tokens = prompts + rows * (completion - 1)
    keys = max(_formed(b, t.n) for b in t.model.blocks if b.stream == "text")
    copied = max(_experts_copied(b.mlp, b.hidden_size) for b in t.model.blocks)
    decoding = tokens * (cached + keys) + rows * t.n.weight * copied
    return at_moment(
        t,
        base,
        gradients=0,
        gathered=t.shard.gathered_root + t.shard.gathered_layer,
        activations=largest(reading, decoding),
        logits=rows * t.vocab_size * (t.n.head + SAMPLING * FP32_BYTES),
        temporaries=_cast_to_decode(t),
    )


def _wider(block: Block, n: Numerics) -> int:
    """What a feed-forward part takes beyond half precision where autocast is left out [bytes per
    token]."""
    if n.trained or not n.autocast or n.weight != FP32_BYTES or n.compute == FP32_BYTES:
        return 0
    wide = (3 if block.mlp.gated else 2) * block.mlp.intermediate_size
    return (FP32_BYTES - HALF_BYTES) * wide


def _embedded(t: Terms) -> int:
    """What the stack of layers was called with and its caller holds: the embedding, and learned
    positions' [bytes per token]."""
    learned = t.layers[-1].block.attention.position == "learned"
    return (2 if learned else 1) * t.n.outside * t.model.hidden_size


def _formed(block: Block, n: Numerics) -> int:
    """Bytes of a cached token that one layer forms: the grown copy of its keys; of a latent what
    it is multiplied out to, the values' views among it, and keys joined with their rotated part
    (transformers 5.23 models/deepseek_v3/modeling_deepseek_v3.py, expand_kv)."""
    a, wide = block.attention, cache_bytes(block, n)
    if not a.latent_dim:
        return wide * a.k_width
    return wide * (a.k_width + a.num_heads * (a.head_dim - a.rotary_dim + a.v_head_dim))


def _experts_copied(mlp: Mlp, hidden_size: int) -> int:
    """Weights of the experts of one token."""
    if not mlp.num_experts:
        return 0
    return mlp.experts_per_token * (3 if mlp.gated else 2) * hidden_size * mlp.intermediate_size


def _cast_to_decode(t: Terms) -> Number:
    """Half-precision copies that autocast keeps through a forward, the head's among them; PEFT
    hands generation to the base model, whose forward accelerate has not wrapped [bytes]."""
    if not t.n.trained or not t.n.autocast or t.n.weight == HALF_BYTES:
        return 0
    return cast_weights(t) + HALF_BYTES * t.vocab_size * t.model.embedding_width


def cache_bytes(block: Block, n: Numerics) -> int:
    """Of a cached feature, values in the keys' dtype (cache_utils.py, DynamicLayer
    .lazy_initialization): fp32 cosines make keys fp32. Autocast halves others where the model's own
    forward is called; PEFT calls the base model's (`_cast_to_decode`)."""
    if n.weight != FP32_BYTES:
        return n.attention
    halved = n.autocast and n.trained and block.traits.rope == "none"
    return HALF_BYTES if halved else FP32_BYTES


def cached_per_token(model: ModelSpec, n: Numerics) -> float:
    """Keys and values of one token, all layers; of a latent it and the keys' rotated part
    [bytes]."""
    return float(sum(b.num_layers * _cached(b, n) for b in model.blocks if b.stream == "text"))


def _cached(block: Block, n: Numerics) -> int:
    a, wide = block.attention, cache_bytes(block, n)
    if a.latent_dim:
        return wide * (a.latent_dim + a.rotary_dim)
    return wide * (a.k_width + a.v_width)
