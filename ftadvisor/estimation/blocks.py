"""What the caching allocator leaves unsplit: a block is not cut where a mebibyte or less would be
left of it, and all of it counts as allocated.

Tensors above 1 MiB and below 10 MiB are cut from segments of 20 MiB, larger ones have a segment of
their own in whole 2 MiB. Powers of two leave nothing; a width of 768 leaves half a mebibyte of
every 20. Ref: c10/cuda/CUDACachingAllocator.cpp, should_split and get_allocation_size.
"""

from __future__ import annotations

from ftadvisor.estimation.arithmetic import ceil_div, select
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import Number
from ftadvisor.units import MIB

LEAST_LEFT = MIB
"""kSmallSize: the most that is left unsplit, and the largest tensor of the other pool."""
SHARED_SEGMENT = 20 * MIB
"""kLargeBuffer."""
OWN_SEGMENT = 10 * MIB
"""kMinLargeAlloc: from here on a tensor has a segment of its own."""
SEGMENT_STEP = 2 * MIB
"""kRoundLarge."""


def unsplit_share(size: Number, filler: Number) -> Number:
    """What is left unsplit, over the bytes of the segment that tensors of `size` are cut from.

    `filler`: the size of the tensors that are put where no further one of `size` fits [bytes].
    """
    segment = select(
        size >= OWN_SEGMENT, SEGMENT_STEP * ceil_div(size, SEGMENT_STEP), SHARED_SEGMENT
    )
    rest = segment % size
    rest = select(filler > LEAST_LEFT, rest % filler, rest)
    return select((size > LEAST_LEFT) & (rest <= LEAST_LEFT), rest / segment, 0.0)


def unsplit_weights(block: Block, element: float, scale: float, filler: Number) -> Number:
    """The same share of a layer's matrices, `element` bytes for each weight.

    A quantised matrix's scales, `scale` bytes for each weight, are loaded next and lie beside it.
    """
    left: Number = 0
    for weights, share in block.shapes:
        beside = scale * weights if scale * weights > LEAST_LEFT else filler
        left = left + share * unsplit_share(element * weights, beside)
    return left
