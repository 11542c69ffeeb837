"""A model of torch's CUDA caching allocator: what it asks of the driver, and what it keeps.

Written from c10/cuda/CUDACachingAllocator.cpp of torch 2.13, default configuration. Sizes are
rounded to 512 bytes. Small requests are cut from segments of 2 MiB, larger ones from segments of 20
MiB, the largest get a segment of their own, rounded to 2 MiB. A request takes the smallest free
block that is large enough; what is left of that block is split off only if it is worth it, so a
block may be larger than what was asked for. Freed blocks merge with free neighbours in their
segment and stay reserved.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from ftadvisor.errors import FtadvisorError
from ftadvisor.units import MIB

ROUNDING = 512
"""kMinBlockSize."""
SMALL_LIMIT = MIB
"""kSmallSize: requests up to here come from the small pool."""
SMALL_SEGMENT = 2 * MIB
"""kSmallBuffer."""
LARGE_SEGMENT = 20 * MIB
"""kLargeBuffer."""
LARGE_REQUEST = 10 * MIB
"""kMinLargeAlloc: from here on a request has a segment of its own."""
SEGMENT_ROUNDING = 2 * MIB
"""kRoundLarge."""


class OutOfMemoryError(FtadvisorError):
    """The replayed card has no room left, even after its cache was given back."""

    kind = "out_of_memory"


@dataclass(slots=True)
class _Block:
    """A piece of a segment."""

    address: int
    size: int
    segment: _Segment
    previous: _Block | None = None
    following: _Block | None = None
    used: bool = False


@dataclass(slots=True)
class _Segment:
    """What one cudaMalloc returned; with expandable segments, one growing range per pool."""

    size: int
    small: bool


def rounded(size: int) -> int:
    """The bytes that a request takes of a block."""
    return max(ROUNDING, -(-size // ROUNDING) * ROUNDING)


def segment_size(size: int) -> int:
    """The bytes that are asked of the driver for a request that no free block can serve."""
    if size <= SMALL_LIMIT:
        return SMALL_SEGMENT
    if size < LARGE_REQUEST:
        return LARGE_SEGMENT
    return -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING


class CachingAllocator:
    """The allocator's state, fed with one request at a time.

    Args:
        capacity: bytes that the driver has to give [bytes]; None: no limit.
        expandable_segments: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.
    """

    def __init__(self, capacity: int | None = None, *, expandable_segments: bool = False) -> None:
        self.capacity = capacity
        self.expandable_segments = expandable_segments
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self.num_retries = 0
        """How often the cache had to be given back to serve a request."""
        self._blocks: dict[int, _Block] = {}
        """By the caller's handle."""
        # Free blocks by size, then address, as the allocator's own sets are ordered.
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._tails: dict[bool, _Block | None] = {True: None, False: None}
        self._next_address = 1

    def allocate(self, handle: int, size: int) -> None:
        """Serve one request under a handle of the caller's choice."""
        size = rounded(size)
        small = size <= SMALL_LIMIT
        block = self._best_fit(size, small) or self._new_block(size, small)
        rest = block.size - size
        if self._splits(rest, small):
            self._split(block, size)
        block.used = True
        self._blocks[handle] = block
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)

    def free(self, handle: int) -> None:
        """Give one block back to the cache, merged with its free neighbours."""
        block = self._blocks.pop(handle)
        block.used = False
        self.allocated_bytes -= block.size
        before, after = block.previous, block.following
        if before is not None and not before.used:
            self._forget(before)
            block = self._merge(before, block)
        if after is not None and not after.used:
            self._forget(after)
            block = self._merge(block, after)
        self._remember(block)

    def empty_cache(self) -> None:
        """Return what is wholly free to the driver."""
        for small, free in self._free.items():
            for _, address in list(free):
                block = self._at[address]
                if self.expandable_segments:
                    self._unmap(block)
                elif block.size == block.segment.size:
                    self._forget(block)
                    self.reserved_bytes -= block.size
            assert all(key[1] in self._at for key in self._free[small])

    def reset_peaks(self) -> None:
        """As torch.cuda.reset_peak_memory_stats."""
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_reserved_bytes = self.reserved_bytes

    def _splits(self, rest: int, small: bool) -> bool:
        # Blocks of an expandable segment are always split: what is left of one may grow.
        if small or self.expandable_segments:
            return rest >= ROUNDING
        return rest > SMALL_LIMIT

    def _best_fit(self, size: int, small: bool) -> _Block | None:
        free = self._free[small]
        at = bisect.bisect_left(free, (size, 0))
        if at == len(free):
            return None
        return self._at.pop(free.pop(at)[1])

    def _new_block(self, size: int, small: bool) -> _Block:
        if self.expandable_segments:
            return self._extend(size, small)
        wanted = segment_size(size)
        self._reserve(wanted)
        address = self._next_address
        # A gap, so that blocks of two segments are never neighbours.
        self._next_address += wanted + 1
        return _Block(address, wanted, _Segment(wanted, small))

    def _extend(self, size: int, small: bool) -> _Block:
        """Map pages behind the pool's last block, which is used up first when it is free."""
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        tail = self._tails[small]
        at_hand = tail.size if tail is not None and not tail.used else 0
        mapped = -(-(size - at_hand) // page) * page
        self._reserve(mapped)
        if tail is not None and not tail.used:
            self._forget(tail)
            tail.size += mapped
            tail.segment.size += mapped
            return tail
        if tail is None:
            # Far apart: the two pools' ranges never meet.
            address = 1 if small else 1 << 50
            block = _Block(address, mapped, _Segment(mapped, small))
        else:
            tail.segment.size += mapped
            block = _Block(tail.address + tail.size, mapped, tail.segment, previous=tail)
            tail.following = block
        self._tails[small] = block
        return block

    def _unmap(self, block: _Block) -> None:
        """Return the whole pages of a free block of an expandable segment."""
        # Only the end of the range is given up here: torch unmaps pages anywhere, and maps them
        # again at the same address, which no request can tell apart from a new range.
        page = SMALL_SEGMENT if block.segment.small else LARGE_SEGMENT
        pages = block.size // page * page
        if not pages or block.following is not None:
            return
        self._forget(block)
        self.reserved_bytes -= pages
        block.size -= pages
        block.segment.size -= pages
        if block.size:
            self._remember(block)
            return
        self._tails[block.segment.small] = block.previous
        if block.previous is not None:
            block.previous.following = None

    def _reserve(self, size: int) -> None:
        if self.capacity is not None and self.reserved_bytes + size > self.capacity:
            self.num_retries += 1
            self.empty_cache()
            if self.reserved_bytes + size > self.capacity:
                raise OutOfMemoryError(
                    f"{size:,} bytes were asked for, {self.capacity - self.reserved_bytes:,} are"
                    f" left of {self.capacity:,}."
                )
        self.reserved_bytes += size
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)

    def _split(self, block: _Block, size: int) -> None:
        rest = _Block(
            block.address + size, block.size - size, block.segment, block, block.following
        )
        if block.following is not None:
            block.following.previous = rest
        elif self._tails[block.segment.small] is block:
            self._tails[block.segment.small] = rest
        block.following = rest
        block.size = size
        self._remember(rest)

    def _merge(self, first: _Block, second: _Block) -> _Block:
        first.size += second.size
        first.following = second.following
        if second.following is not None:
            second.following.previous = first
        elif self._tails[first.segment.small] is second:
            self._tails[first.segment.small] = first
        return first

    def _remember(self, block: _Block) -> None:
        self._at[block.address] = block
        bisect.insort(self._free[block.segment.small], (block.size, block.address))

    def _forget(self, block: _Block) -> None:
        free = self._free[block.segment.small]
        free.pop(bisect.bisect_left(free, (block.size, block.address)))
        del self._at[block.address]
