"""What all layers keep at the end of forward."""

from __future__ import annotations

from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES
from ftadvisor.estimation.terms import Layer, Terms, outlive_checkpoints
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import Number


def saved_by_layers(t: Terms) -> Number:
    """What all layers keep at the end of forward [bytes]."""
    return _kept_by_layers(t) + t.mask_bytes


def _kept_by_layers(t: Terms) -> Number:
    if t.settings.gradient_checkpointing != "none":
        kept = sum(x.tokens * x.block.num_layers * _checkpoint(t, x) for x in t.layers)
        if t.n.residual != t.n.outside:
            # The first layer's input is the embedding, still in its weights' dtype.
            kept -= t.tokens * (t.n.residual - t.n.outside) * t.model.hidden_size
        return kept + inputs_kept(t)
    kept = sum(x.tokens * x.block.num_layers * saved_by_one(x) for x in t.layers)
    return kept + t.tokens * t.adapter.saved_per_token + t.adapter.saved_bytes


def saved_by_source(t: Terms) -> Number:
    """What an encoder's layers keep until the decoder's have gone back [bytes]."""
    checkpointed = t.settings.gradient_checkpointing != "none"
    return sum(
        x.tokens * x.block.num_layers * (_checkpoint(t, x) if checkpointed else saved_by_one(x))
        for x in t.layers
        if x.block.stream == "source"
    )


def inputs_kept(t: Terms) -> Number:
    """Inputs of quantised matrices that no checkpoint drops, to the end of backward [bytes]."""
    if not outlive_checkpoints(t.settings, t.trainer):
        return 0
    if t.settings.quantization == "int8":
        return matrix_inputs(t, t.n.compute, t.n.attention)
    return matrix_inputs(t, HALF_BYTES, HALF_BYTES)


def matrix_inputs(t: Terms, element: int, of_attention: int) -> Number:
    """Inputs of all layers' matrices, q's, k's and v's one tensor, the output of attention in its
    own dtype [bytes]."""
    return sum(
        x.tokens * x.block.num_layers * _inputs_of_one(x.block, element, of_attention)
        for x in t.layers
    )


def _inputs_of_one(block: Block, element: int, of_attention: int) -> float:
    """The same of one layer, per token. One norm may feed attention and MLP; after a norm that
    follows the sum, what attention reads is the layer's input, which its checkpoint has. Attention
    to a source reads the target once more; all layers share the source.
    """
    one = block.traits.place in ("parallel", "post")
    streams, attentions = (1 if one else 2), 1
    if block.cross_attention:
        streams, attentions = streams + 1, 2
    own = element * (streams * block.hidden_size + block.mlp.intermediate_size)
    return own + of_attention * attentions * block.attention.out_width


def saved_by_one(x: Layer) -> Number:
    """What one layer keeps [bytes per token of its stream]."""
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
    return last.tokens * saved_by_one(last) + adapter


def embedding_kept(t: Terms) -> Number:
    """What is kept between the embedding and the first layer, whose own input the layer counts
    [bytes].

    Where PEFT makes checkpoints' inputs require a gradient, the embedding's output is a leaf of the
    graph and stays beside what is made of it (enable_input_require_grads). A norm keeps the sum
    that it reads, dropout its mask. Ref: transformers/models/bert/modeling_bert.py, BertEmbeddings;
    bart/modeling_bart.py, BartEncoder.forward; gpt2/modeling_gpt2.py, GPT2Model.forward.
    """
    m, n = t.model, t.n
    if m.embedding_scale and not n.trained:
        return t.tokens * n.weight * m.hidden_size
    first = t.layers[0].block
    learned = first.attention.position == "learned"
    dropped = first.hidden_dropout > 0 and (learned or m.family != "decoder")
    changed = learned or dropped or m.embedding_norm
    reached = n.trained or t.settings.gradient_checkpointing != "none"
    if not (changed and reached):
        return 0
    kept = 0 if n.trained else n.weight
    if m.embedding_norm and (n.trained or m.family != "decoder"):
        kept += FP32_BYTES if n.autocast else n.weight
    kept += n.dropout_mask if dropped else 0
    tokens = t.tokens + (t.layers[0].tokens if m.family == "encdec" else 0)
    return tokens * kept * m.embedding_width
