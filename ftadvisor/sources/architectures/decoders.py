"""Decoders: embedding, a stack of layers, a final norm, a language-model head."""

from __future__ import annotations

from ftadvisor.schema.model import ModelSpec
from ftadvisor.sources.architectures.config import Config
from ftadvisor.sources.architectures.layers import norm_kind, stack


def decoder(c: Config, id: str) -> ModelSpec:
    """A causal language model, as `AutoModelForCausalLM` builds it."""
    row = c.row
    h = c.integer("hidden_size")
    vocab = c.integer("vocab_size")
    context = c.integer("max_position_embeddings", 0, least=0)
    norm = norm_kind(row)
    norm_params = {"rms": h, "layer": 2 * h, "none": 0}[norm]
    positions = 0
    if "learned_positions" in row:
        positions = (context + row["learned_positions"]) * h
    return ModelSpec(
        id=id,
        model_type=c.model_type,
        family="decoder",
        hidden_size=h,
        vocab_size=vocab,
        tie_word_embeddings=c.flag("tie_word_embeddings"),
        max_position_embeddings=context,
        blocks=stack(c),
        embedding_width=h,
        num_other_embedding_params=positions,
        final_norm=norm,
        num_other_params=norm_params,
        lm_head_bias=c.flag(row.get("head_bias", False)),
        final_softcap="final_softcap" in row and bool(c.get(row["final_softcap"])),
        embedding_scale=row.get("embedding_scale", False),
        remote_code=row.get("remote_code", False),
    )
