"""What all layers keep at the end of forward."""

from __future__ import annotations

from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES
from ftadvisor.estimation.terms import Layer, Terms, outlive_checkpoints
from ftadvisor.schema.settings import Number


def saved_by_layers(t: Terms) -> Number:
    """What all layers keep at the end of forward [bytes]."""
    return _kept_by_layers(t) + t.mask_bytes


def _kept_by_layers(t: Terms) -> Number:
    if t.settings.gradient_checkpointing != "none":
        kept = sum(x.tokens * x.block.num_layers * _checkpoint(t, x) for x in t.layers)
        if t.n.residual != t.n.weight:
            # The first layer's input is the embedding, still in the weights' dtype.
            kept -= t.tokens * (t.n.residual - t.n.weight) * t.model.hidden_size
        return kept + inputs_kept(t)
    kept = sum(x.tokens * x.block.num_layers * _saved_by_one(x) for x in t.layers)
    return kept + t.tokens * t.adapter.saved_per_token + t.adapter.saved_bytes


def saved_by_source(t: Terms) -> Number:
    """What an encoder's layers keep until the decoder's have gone back [bytes]."""
    checkpointed = t.settings.gradient_checkpointing != "none"
    return sum(
        x.tokens * x.block.num_layers * (_checkpoint(t, x) if checkpointed else _saved_by_one(x))
        for x in t.layers
        if x.block.stream == "source"
    )


def inputs_kept(t: Terms) -> Number:
    """Inputs of 4-bit matrices that no checkpoint drops, to the end of backward [bytes]."""
    kept = outlive_checkpoints(t.settings, t.trainer)
    return matrix_inputs(t, HALF_BYTES, HALF_BYTES) if kept else 0


def matrix_inputs(t: Terms, element: int, of_attention: int) -> Number:
    """Inputs of all layers' matrices, q's, k's and v's one tensor, the output of attention in its
    own dtype [bytes]."""
    return sum(
        x.tokens
        * x.block.num_layers
        * (
            element * (2 * x.block.hidden_size + x.block.mlp.intermediate_size)
            + of_attention * x.block.attention.out_width
        )
        for x in t.layers
    )


def _saved_by_one(x: Layer) -> Number:
    return x.activations.saved + x.activations.saved_per_key * x.keys


def _checkpoint(t: Terms, x: Layer) -> Number:
    """Bytes per token that a checkpointed layer keeps: its input, and selectively its attention."""
    kept = t.n.residual * x.block.hidden_size
    if t.model.model_type in t.trainer.keeps_cache:
        a = x.block.attention
        kept += t.n.attention * (a.q_width + a.k_width + a.v_width)
    if t.settings.gradient_checkpointing == "selective":
        attention = x.block.attention
        kept += t.n.attention * attention.out_width + FP32_BYTES * attention.num_heads
        if t.trainer.selective_saves_products:
            # The first, third, ... of wq, wk, wv, wo, w1, w3, w2.
            products = x.block.mlp.intermediate_size + x.block.hidden_size
            kept += t.n.compute * (attention.q_width + attention.v_width + products)
    return kept


def saved_by_last(t: Terms) -> Number:
    """What the layer that backward starts with has kept [bytes]."""
    last = t.layers[-1]
    adapter = t.tokens * t.adapter.saved_per_token_per_layer + t.adapter.saved_bytes_per_layer
    return last.tokens * _saved_by_one(last) + adapter
