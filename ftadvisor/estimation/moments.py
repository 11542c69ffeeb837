"""The fullest moment of one layer's backward, the layer's own second forward included."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.numerics import HALF_BYTES
from ftadvisor.estimation.terms import Layer, Terms
from ftadvisor.schema.model import Stream
from ftadvisor.schema.settings import Number


class Moment(NamedTuple):
    """Of one layer's backward [bytes]."""

    activations: Number
    temporaries: Number
    """As large as a weight."""


def widest_first(t: Terms) -> Moment:
    """Of the layers that backward begins with: an encoder-decoder's decoder."""
    return _widest(_of_stream(t, "text"))


def widest_last(t: Terms) -> Moment:
    """Of the layers that backward ends with: an encoder-decoder's encoder."""
    found = _of_stream(t, "source")
    if t.model.family == "encdec" and t.adapter.saved_per_source_token:
        kept = t.adapter._replace(
            saved_per_token_per_layer=t.adapter.saved_per_source_token,
            outside_attention_per_token=0,
        )
        found = found._replace(tokens=found.layers[0].tokens, adapter=kept)
    return _widest(found)


def _of_stream(t: Terms, stream: Stream) -> Terms:
    if t.model.family != "encdec":
        return t
    return t._replace(layers=tuple(x for x in t.layers if x.block.stream == stream))


def _widest(t: Terms) -> Moment:
    """The moment with most bytes in one layer's backward."""
    one_weight = t.n.compute * max(x.block.widest_matrix for x in t.layers)
    adapter = t.tokens * t.adapter.saved_per_token_per_layer + t.adapter.saved_bytes_per_layer
    own = t.tokens * t.adapter.backward_per_token + t.adapter.temporary_bytes
    dequantized = one_weight if t.settings.quantization == "int8" else 0
    if t.settings.quantization.startswith("nf4"):
        # In the dtype that was quantised, and cast to the gradient's, bitsandbytes' compute dtype,
        # whatever the layer is handed (bitsandbytes/autograd/_functions.py, MatMul4Bit.backward).
        cast = HALF_BYTES if t.n.weight != HALF_BYTES else 0
        dequantized = one_weight * (t.n.weight + cast) / t.n.compute
    gradient = one_weight if t.n.trained else 0
    product: Number = 0
    matrix: Number = 0
    attention: Number = 0
    forward: Number = 0
    end: Number = 0
    for x in t.layers:
        a, tokens = x.activations, x.tokens
        # Scores and masks wait for the attention's own backward, the last.
        keys = a.saved_per_key * x.keys
        product = largest(product, tokens * (a.at_product + keys))
        matrix = largest(matrix, tokens * (a.at_matrix + keys))
        attention = largest(attention, tokens * (a.at_attention + a.attention_per_key * x.keys))
        forward = largest(forward, tokens * (a.whole + keys))
        end = largest(end, select(a.at_end > 0, tokens * (a.at_end + keys), 0))
    # The input of the last adapted matrix is gone when the MLP's gradients are formed.
    product = product + adapter - t.tokens * t.adapter.freed_per_token
    matrix = matrix + adapter + own
    temporaries = largest(dequantized, gradient)
    attention = attention + adapter - t.tokens * t.adapter.outside_attention_per_token
    whole = largest(product + gradient, matrix + temporaries, attention + gradient)
    if t.adapter.forward_per_token:
        whole = largest(whole, forward + adapter + t.tokens * t.adapter.forward_per_token)
    elif gradient:
        whole = largest(whole, *(_bias_sum(x) + gradient for x in t.layers))
    if t.settings.gradient_checkpointing != "none":
        whole = largest(whole, end + adapter)
    weights = select(whole == matrix + temporaries, temporaries, gradient)
    return Moment(whole - weights, weights)


PARTIAL_SUMS_BYTES = 8
"""Of a bias's gradient, for each of its terms: a sum over many rows is divided between thread
blocks, 64 rows to one, each of which leaves 128 sums in fp32 (aten/src/ATen/native/cuda/Reduce.cuh,
setReduceConfig; to the byte what a trace of an H100 shows)."""
THREAD_ROWS, FEWEST_PER_THREAD = 4, 256
"""Of a thread block; rows for each of its threads, below which no sum is divided."""
A100_THREADS = 108 * 2048
"""On all its multiprocessors at once."""
THREAD_BYTES = 512
"""What one of them leaves: 128 sums in fp32."""


def _bias_sum(x: Layer) -> Number:
    """Alive while a bias's gradient is summed over all tokens [bytes]."""
    block = x.block
    if block.mlp.gated or not block.mlp_bias:
        return 0
    parts = PARTIAL_SUMS_BYTES * x.tokens * block.mlp.intermediate_size
    parts = smallest(parts, A100_THREADS * THREAD_BYTES)
    divided = x.tokens >= THREAD_ROWS * FEWEST_PER_THREAD
    a = x.activations
    return x.tokens * (a.at_bias + a.saved_per_key * x.keys) + select(divided, parts, 0)
