"""Multi-head latent attention: keys and values are expanded from one narrow vector per token."""

from __future__ import annotations

from ftadvisor.schema.model import Attention, Linear
from ftadvisor.sources.architectures.config import Config


def latent_attention(c: Config) -> Attention:
    """Shapes after the expansion: every head has keys of its own.

    Source: transformers/models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3Attention.
    """
    heads = c.integer("num_attention_heads")
    rotary = c.integer("qk_rope_head_dim")
    head_dim = c.integer("qk_nope_head_dim") + rotary
    value = c.optional("v_head_dim")
    return Attention(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        v_head_dim=c.ratio("hidden_size", "num_attention_heads") if value is None else value,
        rotary_dim=rotary,
        latent_dim=c.integer("kv_lora_rank"),
        q_latent_dim=c.optional("q_lora_rank") or 0,
    )


def latent_linears(c: Config, a: Attention, h: int) -> tuple[Linear, ...]:
    """The matrices of latent attention; queries are compressed where `q_lora_rank` is stated."""
    bias = c.flag("attention_bias")
    if a.q_latent_dim:
        queries = (
            Linear("q_a_proj", h, a.q_latent_dim, bias, part="attention"),
            Linear("q_b_proj", a.q_latent_dim, a.q_width, part="attention"),
        )
    else:
        queries = (Linear("q_proj", h, a.q_width, part="attention"),)
    expanded = a.num_heads * (a.head_dim - a.rotary_dim + a.v_head_dim)
    return (
        *queries,
        Linear("kv_a_proj_with_mqa", h, a.latent_dim + a.rotary_dim, bias, part="attention"),
        Linear("kv_b_proj", a.latent_dim, expanded, part="attention"),
        Linear("o_proj", a.out_width, h, bias, part="attention"),
    )
