"""The fullest moment of one layer's backward, the layer's own second forward included."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.numerics import HALF_BYTES
from ftadvisor.estimation.terms import Layer, Terms
from ftadvisor.schema.settings import Number


class Moment(NamedTuple):
    """Of one layer's backward [bytes]."""

    activations: Number
    temporaries: Number
    """As large as a weight."""


def widest_moment(t: Terms) -> Moment:
    """The moment with most bytes in one layer's backward."""
    one_weight = t.n.compute * max(x.block.widest_matrix for x in t.layers)
    adapter = t.tokens * t.adapter.saved_per_token_per_layer + t.adapter.saved_bytes_per_layer
    own = t.tokens * t.adapter.backward_per_token + t.adapter.temporary_bytes
    dequantized = one_weight if t.settings.quantization == "int8" else 0
    if t.settings.quantization.startswith("nf4"):
        # In bitsandbytes' compute dtype, whatever the layer is handed.
        dequantized = one_weight * HALF_BYTES / t.n.compute
    gradient = one_weight if t.n.trained else 0
    product: Number = 0
    matrix: Number = 0
    attention: Number = 0
    forward: Number = 0
    for x in t.layers:
        a, tokens = x.activations, x.tokens
        product = largest(product, tokens * a.at_product)
        matrix = largest(matrix, tokens * a.at_matrix)
        attention = largest(attention, tokens * (a.at_attention + a.attention_per_key * x.keys))
        forward = largest(forward, tokens * a.whole)
    # The input of the last adapted matrix is gone when the MLP's gradients are formed.
    product = product + adapter - t.tokens * t.adapter.freed_per_token
    matrix = matrix + adapter + own
    temporaries = largest(dequantized, gradient)
    whole = largest(product + gradient, matrix + temporaries, attention + adapter + gradient)
    if t.adapter.forward_per_token:
        whole = largest(whole, forward + adapter + t.tokens * t.adapter.forward_per_token)
    elif gradient:
        whole = largest(whole, *(_bias_sum(x) + gradient for x in t.layers))
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
    return x.tokens * x.activations.at_bias + select(divided, parts, 0)
