"""Encoders: embeddings with positions and types, a stack of layers, sometimes a pooler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.schema.model import Block, Linear, ModelSpec
from ftadvisor.sources.architectures.config import Config
from ftadvisor.sources.architectures.layers import norm_bias, norm_kind, stack


def encoder(c: Config, id: str) -> ModelSpec:
    """A text encoder as `AutoModel` builds it: with the pooler, without a language-model head."""
    row = c.row
    h = c.integer("hidden_size")
    width = c.integer("embedding_size", h)
    offset = row.get("context_offset", 0)
    context = c.integer("max_position_embeddings", least=1 - offset)
    norm_params = 2 * h if norm_bias(c) else h
    embedding_norm = norm_params if row.get("embedding_norm_after_projection") else None
    embedding_norm = 2 * width if embedding_norm is None and norm_bias(c) else embedding_norm
    final_norm = row.get("final_norm", False)
    others = (norm_params if embedding_norm is None else embedding_norm) + norm_params * final_norm
    if row.get("pooler"):
        others += h * h + h
    if "relative_table" in row:
        others += c.integer(row["relative_table"]) * c.integer("num_attention_heads")
    more_linears, more_per_layer, scored = (), 0, 0
    if "disentangled" in row:
        more_linears, more_per_layer, relative, scored = _disentangled(c, row["disentangled"], h)
        others += relative
    blocks = tuple(
        replace(b, attention=replace(b.attention, scored_positions=scored)) if scored else b
        for b in stack(c, "layer", more_linears, other_params=more_per_layer, shared=_shared(c))
    )
    return ModelSpec(
        id=id,
        model_type=c.model_type,
        family="encoder",
        hidden_size=h,
        vocab_size=c.integer("vocab_size"),
        tie_word_embeddings=True,
        max_position_embeddings=context + offset,
        blocks=_without_first_norm(blocks) if row.get("first_layer_lacks_norm") else blocks,
        embedding_width=width,
        num_other_embedding_params=_embedding_params(c, h, width, context),
        final_norm=norm_kind(row) if final_norm else "none",
        num_other_params=others,
        embedding_norm=True,
        supports_sdpa=row.get("sdpa", True),
        supports_flash_attention=row.get("flash", True),
        dense_classifier=row.get("dense_classifier", False),
        remote_code=row.get("remote_code", False),
    )


def _embedding_params(c: Config, h: int, width: int, context: int) -> int:
    """Positions, token types, and the matrix from a narrow embedding to the hidden size."""
    row = c.row
    params = 0
    if c.flag(row.get("learned_positions", True)):
        params += context * width
    if row.get("token_types", True):
        params += c.integer("type_vocab_size", 0, least=0) * width
    projection = row.get("embedding_projection", "unless_equal")
    if projection == "always" or width != h:
        params += width * h + (h if row.get("embedding_projection_bias", True) else 0)
    return params


def _shared(c: Config) -> bool:
    """ALBERT: all layers use one set of weights."""
    if not c.row.get("shared_layers"):
        return False
    for key in ("num_hidden_groups", "inner_group_num"):
        if c.integer(key, 1) != 1:
            raise UnsupportedError.of(
                f"{key} = {quoted(c.get(key))} in {c.file}", "one shared layer is described"
            )
    return True


def _without_first_norm(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """ModernBERT: the first layer's attention reads the embedding's norm, it has none itself.

    Source: transformers/models/modernbert/modeling_modernbert.py, ModernBertEncoderLayer.
    """
    head, *rest = blocks
    first = replace(head, name="layer.first", num_layers=1, norm_widths=head.norm_widths[1:])
    others = [replace(head, num_layers=head.num_layers - 1)] if head.num_layers > 1 else []
    return (first, *others, *rest)


def _disentangled(
    c: Config, rule: dict[str, Any], h: int
) -> tuple[tuple[Linear, ...], int, int, int]:
    """DeBERTa's projections of relative positions, biases per layer, the shared embedding, and how
    many positions a token is scored against.

    Source: transformers/models/deberta{,_v2}/modeling_deberta{,_v2}.py, DisentangledSelfAttention
    and the encoder's rel_embeddings.
    """
    biases = rule.get("biases", 0) * h
    if not c.flag("relative_attention"):
        return (), biases, 0, 0
    stated = c.get("pos_att_type")
    kinds = stated.lower().split("|") if isinstance(stated, str) else c.listed("pos_att_type") or ()
    linears = tuple(
        Linear(name, h, h, bias, part="attention")
        for kind, name, bias in rule["projections"]
        if kind in kinds and not ("share" in rule and c.flag(rule["share"]))
    )
    positions = c.optional("max_relative_positions", least=-1) or -1
    if positions < 1:
        positions = c.integer("max_position_embeddings")
    buckets = c.optional("position_buckets", least=-1) or -1
    span = 2 * (buckets if buckets > 0 else positions)
    params = span * h
    if "layer_norm" in c.text("norm_rel_ebd", "none").lower():
        params += 2 * h
    kernel = c.integer("conv_kernel_size", 0, least=0)
    if kernel:
        params += kernel * h * h // c.integer("conv_groups", 1) + 3 * h
    scored = span * sum(kind in kinds for kind, *_ in rule["projections"])
    return linears, biases, params, scored
