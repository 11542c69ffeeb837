"""Decoders: embedding, a stack of layers, a final norm, a language-model head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.sources.architectures.config import Config
from ftadvisor.sources.architectures.layers import first_true, norm_bias, norm_kind, stack


def decoder(c: Config, id: str) -> ModelSpec:
    """A causal language model, as `AutoModelForCausalLM` builds it."""
    row = c.row
    h = c.integer("hidden_size")
    vocab = c.integer("vocab_size")
    context = c.integer(row.get("context", "max_position_embeddings"), 0, least=0)
    norm = norm_kind(row)
    norm_params = {"rms": h, "layer": 2 * h if norm_bias(c) else h, "none": 0}[norm]
    # The embedding of some OPT models is narrower than the layers; a matrix widens it, another
    # narrows the output again.
    width = (c.optional(row["embedding_width"]) or h) if "embedding_width" in row else h
    positions = 0 if width == h else 2 * width * h
    if "learned_positions" in row:
        positions += (context + row["learned_positions"]) * h
    embedding_norm = row.get("embedding_norm", False)
    final_norm = c.flag(first_true(c, row.get("final_norm", True)))
    blocks = stack(c)
    if "cross_layers" in row:
        blocks = _with_cross_layers(c, blocks[0])
    positions += row.get("more_embeddings", 0) * width
    return ModelSpec(
        id=id,
        model_type=c.model_type,
        family="decoder",
        hidden_size=h,
        vocab_size=vocab,
        tie_word_embeddings=c.flag("tie_word_embeddings"),
        max_position_embeddings=context,
        blocks=blocks,
        embedding_width=width,
        num_other_embedding_params=positions,
        final_norm=norm if final_norm else "none",
        num_other_params=norm_params * (final_norm + embedding_norm),
        lm_head_bias=c.flag(row.get("head_bias", False)),
        final_softcap="final_softcap" in row and bool(c.get(row["final_softcap"])),
        embedding_scale=row.get("embedding_scale", False),
        embedding_norm=embedding_norm,
        num_causal_masks=_num_causal_masks(row, blocks),
        supports_sdpa=row.get("sdpa", True),
        supports_flash_attention=row.get("flash", True),
        remote_code=row.get("remote_code", False),
    )


def _num_causal_masks(row: dict[str, Any], blocks: tuple[Block, ...]) -> int:
    """`causal_masks` in the row: how many buffers of all pairs of positions there are."""
    kept = row.get("causal_masks", "none")
    return {"none": 0, "one": 1, "each": sum(b.num_layers for b in blocks)}[kept]


def _with_cross_layers(c: Config, layer: Block) -> tuple[Block, ...]:
    """Mllama: some layers attend to the image instead of the text; their two sums have a gate each.

    Source: transformers/models/mllama/modeling_mllama.py, MllamaCrossAttentionDecoderLayer.
    """
    key = c.row["cross_layers"]
    crossing = c.listed(key) or []
    if len(crossing) >= layer.num_layers:
        raise c.fail(key, f"lists {len(crossing)} of {layer.num_layers} layers")
    c.assume("layers that attend to the image are counted as if they attended to the text")
    attention = replace(
        layer.attention, causal=False, position="none", rotary_dim=0, qk_norm="head"
    )
    head_dim = attention.head_dim
    cross = replace(
        layer,
        name="layers.cross",
        num_layers=len(crossing),
        attention=attention,
        norm_widths=(*layer.norm_widths, head_dim, head_dim),
        other_params=2,
    )
    own = replace(layer, num_layers=layer.num_layers - len(crossing))
    return (own, cross) if crossing else (own,)
