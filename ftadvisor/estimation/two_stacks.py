"""Moments of a step that only an encoder-decoder has."""

from __future__ import annotations

from ftadvisor.estimation.arithmetic import largest
from ftadvisor.estimation.moments import Moment
from ftadvisor.estimation.phases import (
    Phase,
    accumulated,
    at_moment,
    gradient_share,
    head_gradient_kept,
)
from ftadvisor.estimation.stack import embedding_kept, saved_by_one, saved_by_source
from ftadvisor.estimation.terms import Terms
from ftadvisor.schema.settings import Number


def source_backward(t: Terms, base: Phase, widest: Moment) -> Phase:
    """Backward of an encoder's last layer: the decoder's tensors are gone, its gradients there."""
    last = next(x for x in reversed(t.layers) if x.block.stream == "source")
    if t.settings.gradient_checkpointing != "none":
        stack = saved_by_source(t) - last.tokens * last.activations.is_input
    else:
        stack = saved_by_source(t) - last.tokens * saved_by_one(last) + t.adapter.saved_bytes
    return at_moment(
        t,
        base,
        gradients=_share_of_decoder(t),
        gathered=t.shard.gathered_root + t.shard.gathered_layer,
        activations=stack + widest.activations + embedding_kept(t) + t.mask_bytes,
        temporaries=widest.temporaries + head_gradient_kept(t, first=False),
    )


def embeddings_join(t: Terms, base: Phase) -> Phase:
    """An encoder-decoder's shared table in the middle of backward: the head's gradient has waited
    for the decoder's embedding, and both are added, while the encoder still keeps its layers.
    """
    table = t.trainable_bytes * t.model.vocab_size * t.model.hidden_size
    return at_moment(
        t,
        base,
        gradients=_share_of_decoder(t),
        gathered=t.shard.gathered_root,
        activations=saved_by_source(t),
        temporaries=3 * table,
    )


def _share_of_decoder(t: Terms) -> Number:
    """Fraction of all gradients that is alive once the decoder has gone back."""
    if not t.n.trained:
        return largest(gradient_share(t), accumulated(t))
    decoder = sum(b.num_params for b in t.model.blocks if b.stream == "text")
    return largest(decoder / t.trainable_params, accumulated(t))
