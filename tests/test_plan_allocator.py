"""The emulated caching allocator: its rules, and what must hold whatever is asked of it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge.plan.allocator import MIB, CachingAllocator, OutOfMemory, rounded


def test_sizes_are_rounded_to_512_bytes():
    assert [rounded(n) for n in (0, 1, 512, 513)] == [0, 512, 512, 1024]


@pytest.mark.parametrize(
    ("asked", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB + 1, 12 * MIB),
    ],
)
def test_segments_have_pytorchs_sizes(asked, reserved):
    assert CachingAllocator().replay([(1, asked)]).max_reserved == reserved


def test_a_segment_serves_several_requests_and_is_joined_again():
    allocator = CachingAllocator().replay([(1, 5 * MIB), (2, 5 * MIB), (3, 5 * MIB)])
    assert allocator.reserved == 20 * MIB
    allocator.replay([(-1, 0), (-3, 0), (-2, 0), (4, 20 * MIB)])
    assert allocator.reserved == 20 * MIB


def test_a_hole_too_small_costs_a_new_segment_unless_segments_grow():
    holes = [(1, 12 * MIB), (2, 12 * MIB), (-1, 0), (3, 14 * MIB)]
    assert CachingAllocator().replay(holes).max_reserved == 38 * MIB
    assert CachingAllocator(expandable=True).replay(holes).max_reserved == 40 * MIB


def test_a_large_block_is_not_split_for_a_rest_of_a_mebibyte():
    allocator = CachingAllocator().replay([(1, 12 * MIB), (-1, 0), (2, 11 * MIB)])
    assert allocator.allocated == 12 * MIB


@pytest.mark.parametrize("expandable", [False, True])
def test_cached_memory_is_given_back_before_running_out(expandable):
    allocator = CachingAllocator(capacity=40 * MIB, expandable=expandable)
    allocator.replay([(1, 20 * MIB), (-1, 0), (2, 40 * MIB)])
    assert allocator.reserved == 40 * MIB
    with pytest.raises(OutOfMemory) as caught:
        allocator.malloc(3, 12 * MIB)
    assert caught.value.allocated == 40 * MIB


@given(
    asked=st.lists(st.integers(1, 60 * MIB) | st.integers(1, 4096), min_size=1, max_size=60),
    freed=st.lists(st.integers(0, 59), max_size=60),
    expandable=st.booleans(),
)
def test_blocks_never_overlap_and_nothing_is_lost(asked, freed, expandable):
    allocator = CachingAllocator(expandable=expandable)
    alive: set[int] = set()
    for step, nbytes in enumerate(asked):
        allocator.malloc(step + 1, nbytes)
        alive.add(step + 1)
        if step < len(freed) and freed[step] + 1 in alive:
            allocator.free(freed[step] + 1)
            alive.discard(freed[step] + 1)
        held = sorted((b.address, b.size) for b in allocator._held.values())
        assert all(a + size <= b for (a, size), (b, _) in pairwise(held))
        assert sum(size for _, size in held) == allocator.allocated <= allocator.reserved
        cached = sum(size for pool in allocator._free.values() for size, _ in pool)
        assert cached + allocator.allocated == allocator.reserved
    for identity in alive:
        allocator.free(identity)
    assert allocator.allocated == 0
