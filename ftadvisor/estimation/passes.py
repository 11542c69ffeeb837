"""Passes without gradients beside a step: the reference's forward, and generation."""

from __future__ import annotations

from ftadvisor.estimation.arithmetic import largest
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.estimation.phases import Phase, at_moment, cast_weights, in_loss, loss_kept
from ftadvisor.estimation.terms import Terms
from ftadvisor.schema.model import Attention, Mlp, ModelSpec
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
    reading = prompts * (cached + largest(*(x.activations.forward for x in t.layers)))
    tokens = prompts + rows * (completion - 1)
    wide = cache_bytes(t.n)
    keys = max(wide * _formed(b.attention) for b in t.model.blocks if b.stream == "text")
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


def _formed(a: Attention) -> int:
    """Features of a cached token that one layer forms: the grown copy of its keys; of a latent what
    it is multiplied out to, the values' views among it, and keys joined with their rotated part
    (transformers 5.23 models/deepseek_v3/modeling_deepseek_v3.py, expand_kv)."""
    if not a.latent_dim:
        return a.k_width
    return a.k_width + a.num_heads * (a.head_dim - a.rotary_dim + a.v_head_dim)


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


def cache_bytes(n: Numerics) -> int:
    """Of a cached feature: the dtype in which keys come out, that of fp32 weights, else half."""
    return FP32_BYTES if n.weight == FP32_BYTES else n.attention


def cached_per_token(model: ModelSpec, n: Numerics) -> float:
    """Keys and values of one token, all layers; of a latent it and the keys' rotated part
    [bytes]."""
    wide = cache_bytes(n)
    return float(
        sum(b.num_layers * wide * _cached(b.attention) for b in model.blocks if b.stream == "text")
    )


def _cached(a: Attention) -> int:
    return a.latent_dim + a.rotary_dim if a.latent_dim else a.k_width + a.v_width
