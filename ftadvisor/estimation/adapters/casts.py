"""Half-precision copies of a frozen fp32 base under autocast."""

from __future__ import annotations

from ftadvisor.estimation.adapters.cost import Run
from ftadvisor.estimation.arithmetic import largest
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.schema.settings import FSDP, Number


def with_casts(a: AdapterBytes, run: Run) -> AdapterBytes:
    """With the copies that autocast makes of frozen matrices, from forward to backward [bytes].

    Each use makes one, for autocast keeps copies of weights with a gradient alone, and the gradient
    of what a matrix is multiplied with needs it. Ref: aten/src/ATen/autocast_mode.cpp, cached_cast;
    derivatives.yaml, mm. FSDP's own mixed precision gathers half precision.
    """
    n, settings = run.n, run.settings
    sharded = settings.strategy in FSDP
    if n.kbit or not n.autocast or n.weight != FP32_BYTES or sharded:
        return a
    whole: Number = 0
    widest: Number = 0
    for b in run.model.blocks:
        copies = 1 if b.shared else b.num_layers
        # Grouped products are no autocast operation; Llama 4's experts are multiplied by bmm.
        bare = 0 if b.traits.splits_experts else b.num_bare_weights
        layer = HALF_BYTES * (b.num_linear_weights - bare) / copies
        read = run.reads(b)
        whole = whole + read * b.num_layers * layer
        widest = largest(widest, read * layer)
    return a._replace(
        saved_bytes=a.saved_bytes + whole,
        saved_bytes_per_layer=a.saved_bytes_per_layer + widest,
    )
