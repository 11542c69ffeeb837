"""The caching allocator's model, against cases worked by hand from its rules."""

from __future__ import annotations

import random

import pytest

from ftadvisor.simulation.cuda.allocator import CachingAllocator, OutOfMemoryError
from ftadvisor.units import MIB


def test_small_requests_share_a_segment():
    a = CachingAllocator()
    a.allocate(1, 1)
    a.allocate(2, 513)
    assert (a.allocated_bytes, a.reserved_bytes) == (512 + 1024, 2 * MIB)


def test_middle_requests_share_twenty_mebibytes():
    a = CachingAllocator()
    a.allocate(1, 9 * MIB)
    a.allocate(2, 9 * MIB)
    assert (a.allocated_bytes, a.reserved_bytes) == (18 * MIB, 20 * MIB)
    a.allocate(3, 3 * MIB)
    assert a.reserved_bytes == 40 * MIB


def test_large_requests_are_rounded_to_two_mebibytes():
    a = CachingAllocator()
    a.allocate(1, 11 * MIB)
    # 1 MiB is left, which is not more than a MiB: it stays with the block and counts as allocated.
    assert (a.allocated_bytes, a.reserved_bytes) == (12 * MIB, 12 * MIB)


def test_best_fit_and_coalescing():
    a = CachingAllocator()
    for handle in (1, 2, 3):
        a.allocate(handle, 6 * MIB)
    # 2 MiB of the segment are left over.
    a.free(1)
    a.free(3)
    a.allocate(4, 5 * MIB)  # the 6 MiB hole fits best; 1 MiB is not split off
    assert a.allocated_bytes == 12 * MIB
    a.free(4)
    a.free(2)
    a.allocate(5, 20 * MIB)  # all of it is one block again
    assert (a.allocated_bytes, a.reserved_bytes) == (20 * MIB, 20 * MIB)


def test_cache_is_kept_until_it_is_emptied():
    a = CachingAllocator()
    a.allocate(1, 100 * MIB)
    a.allocate(2, 600)
    a.free(1)
    assert (a.allocated_bytes, a.reserved_bytes) == (1024, 102 * MIB)
    a.empty_cache()
    assert a.reserved_bytes == 2 * MIB
    assert a.peak_reserved_bytes == 102 * MIB
    a.reset_peaks()
    assert (a.peak_allocated_bytes, a.peak_reserved_bytes) == (1024, 2 * MIB)


def test_a_full_card_gives_its_cache_back_first():
    a = CachingAllocator(capacity=150 * MIB)
    a.allocate(1, 100 * MIB)
    a.free(1)
    a.allocate(2, 120 * MIB)
    assert (a.num_retries, a.reserved_bytes) == (1, 120 * MIB)
    with pytest.raises(OutOfMemoryError, match="120"):
        a.allocate(3, 120 * MIB)


def test_expandable_segments_do_not_fragment():
    fixed, growing = CachingAllocator(), CachingAllocator(expandable_segments=True)
    for a in (fixed, growing):
        for length in (100, 120, 140, 160):
            a.allocate(1, length * MIB)
            a.free(1)
    assert fixed.reserved_bytes == 520 * MIB
    assert growing.reserved_bytes == 160 * MIB
    growing.empty_cache()
    assert growing.reserved_bytes == 0


@pytest.mark.parametrize("expandable", [False, True])
def test_nothing_is_lost(expandable: bool):
    draw = random.Random(0)
    a = CachingAllocator(expandable_segments=expandable)
    live: list[int] = []
    for handle in range(4000):
        if live and draw.random() < 0.5:
            a.free(live.pop(draw.randrange(len(live))))
        else:
            a.allocate(handle, int(2 ** draw.uniform(0, 27)))
            live.append(handle)
        if draw.random() < 0.01:
            a.empty_cache()
        assert 0 <= a.allocated_bytes <= a.reserved_bytes
    for handle in live:
        a.free(handle)
    a.empty_cache()
    assert (a.allocated_bytes, a.reserved_bytes) == (0, 0)
