"""Encoder-decoders: a source stack, and a text stack that also attends to the source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftadvisor.schema.model import Attention, Block, Linear, Mlp, ModelSpec
from ftadvisor.sources.architectures.config import Config, traits_of
from ftadvisor.sources.architectures.layers import norm_kind, with_act


def encoder_decoder(c: Config, id: str) -> ModelSpec:
    """A sequence-to-sequence model, as `AutoModelForSeq2SeqLM` builds it."""
    row = c.row
    h = c.integer("hidden_size")
    norm = norm_kind(row)
    norm_params = 2 * h if norm == "layer" else h
    context = c.integer("max_position_embeddings", 0, least=0) if "positions" in row else 0
    sides = (_block(c, "encoder", h), _block(c, "decoder", h))
    # One table of relative positions in the first layer of each stack (T5); UMT5 has one in each
    # layer, which the blocks count.
    relative = 0
    if row.get("relative_bias") == "first":
        relative = sum(_relative_bias(c, b.attention) for b in sides)
    positions = 2 * (context + row["positions"]) * h if "positions" in row else 0
    norms = (row.get("embedding_norms", 0) + row.get("final_norms", 0)) * norm_params
    return ModelSpec(
        id=id,
        model_type=c.model_type,
        family="encdec",
        hidden_size=h,
        vocab_size=c.integer("vocab_size"),
        tie_word_embeddings=_tied(c),
        max_position_embeddings=context,
        blocks=sides,
        embedding_width=h,
        num_other_embedding_params=positions + relative,
        final_norm=norm if row.get("final_norms") else "none",
        num_other_params=norms,
        embedding_scale="embedding_scale_if" in row and c.flag(row["embedding_scale_if"]),
        embedding_norm=bool(row.get("embedding_norms")),
        supports_sdpa=row.get("sdpa", True),
        supports_flash_attention=row.get("flash", True),
    )


def _tied(c: Config) -> bool:
    """Whether the head is the embedding.

    Transformers 5 ties the T5 family whatever the file says, but keeps the head of a checkpoint
    that has one of its own: modeling_utils.py, tie_weights. Checkpoints do where the file says
    `"tie_word_embeddings": false` (T5 1.1, FLAN-T5, mT5).
    """
    tied = c.flag("tie_word_embeddings")
    if not tied and c.row.get("head_of_checkpoint"):
        c.assume(
            "the language-model head is the checkpoint's own, as tie_word_embeddings = false says"
        )
    return tied


def _relative_bias(c: Config, attention: Attention) -> int:
    return c.integer("relative_attention_num_buckets") * attention.num_heads


def _attention(c: Config, side: str, h: int) -> Attention:
    row = c.row
    heads = c.integer(row[side]["heads"])
    head_dim = c.optional("head_dim")
    if head_dim is None:
        head_dim = c.ratio("hidden_size", row[side]["heads"])
    return Attention(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        causal=side == "decoder",
        position=row["position"],
    )


def _block(c: Config, side: str, h: int) -> Block:
    row: dict[str, Any] = c.row
    keys = row[side]
    attention = _attention(c, side, h)
    decodes = side == "decoder"
    mlp, mlp_linears = _mlp(c, keys, h)
    own = _attention_linears(row, attention, h)
    cross = tuple(replace(linear, part="cross_attention") for linear in own) if decodes else ()
    norms = 3 if decodes else 2
    p, attention_p = c.share(row["dropout"]), c.share(row["attention_dropout"])
    traits = replace(
        with_act(traits_of(c.model_type), mlp),
        residual_dropouts=norms if p > 0 else 0,
        mlp_dropouts=1 if c.share(row["mlp_dropout"]) > 0 else 0,
        attention_dropout=attention_p > 0,
    )
    return Block(
        name=side,
        num_layers=c.integer(keys["layers"], c.integer("num_hidden_layers")),
        hidden_size=h,
        linears=(*own, *cross, *mlp_linears),
        attention=attention,
        mlp=mlp,
        norm=norm_kind(row),
        norm_widths=(h,) * norms,
        norm_bias=traits.norm == "ln",
        cross_attention=decodes,
        hidden_dropout=p,
        attention_dropout=attention_p,
        other_params=_relative_bias(c, attention) if row.get("relative_bias") == "each" else 0,
        stream="text" if decodes else "source",
        traits=traits,
    )


def _attention_linears(row: dict[str, Any], a: Attention, h: int) -> tuple[Linear, ...]:
    bias = row.get("bias", False)
    return (
        *(Linear(name, h, a.q_width, bias, part="attention") for name in row["qkv"]),
        Linear(row["o"], a.out_width, h, bias, part="attention"),
    )


def _mlp(c: Config, keys: dict[str, Any], h: int) -> tuple[Mlp, tuple[Linear, ...]]:
    """The feed-forward part; T5's `feed_forward_proj` names the activation and whether it gates."""
    row: dict[str, Any] = c.row
    size = c.integer(keys["ffn"])
    act = c.text(row["act"])
    gate, _, gated_act = act.partition("-")
    gated = gate == "gated" and "mlp_gated" in row
    c.known_activation(row["act"], gated_act if gated else act)
    *ups, down = row["mlp_gated" if gated else "mlp"]
    bias = row.get("bias", False)
    if gated:
        # Source: transformers/models/t5/configuration_t5.py, for files that say gated-gelu.
        act = "gelu_new" if gated_act == "gelu" else gated_act
    mlp = Mlp(size, gated, act)
    return mlp, (*(Linear(up, h, size, bias) for up in ups), Linear(down, size, h, bias))
