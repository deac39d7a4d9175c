"""PyTorch's CUDA caching allocator, emulated: what is reserved, and when a card runs out.

Follows ``c10/cuda/CUDACachingAllocator.cpp``: sizes are rounded to 512 bytes; requests up to 1 MiB
are served from 2 MiB segments, those below 10 MiB from 20 MiB segments, larger ones from segments
rounded to 2 MiB; best fit, blocks are split and coalesced, cached segments are given back to the
driver before an out-of-memory. With ``expandable_segments`` each pool is one growing segment.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 2**20
GIB = 2**30

_SMALL_REQUEST = MIB
_SMALL_SEGMENT = 2 * MIB
_LARGE_SEGMENT = 20 * MIB
_LARGE_REQUEST = 10 * MIB
_ROUNDING = 512

# One birth (id > 0) or death (id < 0) of a storage of so many bytes.
Event = tuple[int, int]


class OutOfMemory(Exception):
    """The emulated card cannot serve a request."""

    def __init__(self, requested: int, allocated: int, reserved: int) -> None:
        self.requested, self.allocated, self.reserved = requested, allocated, reserved
        super().__init__(f"{requested} bytes asked, {allocated} allocated, {reserved} reserved")


def rounded(nbytes: int) -> int:
    """Bytes the allocator hands out for a request; 0 stays 0."""
    return -(-nbytes // _ROUNDING) * _ROUNDING


@dataclass(slots=True, eq=False)
class _Block:
    size: int
    address: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


class CachingAllocator:
    """The allocator of one card and one stream.

    Attributes:
        allocated, reserved: Bytes in use by tensors, and held from the driver.
        max_allocated, max_reserved: Their peaks.
    """

    def __init__(self, *, capacity: int | None = None, expandable: bool = False) -> None:
        """An empty card.

        Args:
            capacity: Bytes the driver can give; None for no bound.
            expandable: Whether ``PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`` is set.
        """
        self.capacity, self.expandable = capacity, expandable
        self.allocated = self.reserved = self.max_allocated = self.max_reserved = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._held: dict[int, _Block | None] = {}
        self._last: dict[bool, _Block | None] = {True: None, False: None}
        self._next_address = 0

    def replay(self, events: Iterable[Event]) -> CachingAllocator:
        """Serve births and deaths in order; returns itself.

        Raises:
            OutOfMemory: At the first request that the capacity cannot serve.
        """
        for identity, nbytes in events:
            if identity > 0:
                self.malloc(identity, nbytes)
            else:
                self.free(-identity)
        return self

    def malloc(self, identity: int, nbytes: int) -> None:
        """Serve one request.

        Raises:
            OutOfMemory: If the capacity cannot serve it.
        """
        if nbytes == 0:
            self._held[identity] = None
            return
        size = rounded(nbytes)
        small = size <= _SMALL_REQUEST
        block = self._best_fit(small, size) or self._from_driver(small, size)
        self._split(block, size)
        self._held[identity] = block
        self.allocated += block.size
        self.max_allocated = max(self.max_allocated, self.allocated)

    def free(self, identity: int) -> None:
        """Take a block back, and join it with its free neighbours."""
        block = self._held.pop(identity)
        if block is None:
            return
        self.allocated -= block.size
        after, before = block.after, block.before
        if after is not None and after.free:
            self._unlist(after)
            self._absorb(block, after)
        if before is not None and before.free:
            self._unlist(before)
            self._absorb(before, block)
            block = before
        self._list(block)

    def _list(self, block: _Block) -> None:
        block.free = True
        self._at[block.address] = block
        insort(self._free[block.small], (block.size, block.address))

    def _unlist(self, block: _Block) -> None:
        block.free = False
        pool = self._free[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]

    def _absorb(self, block: _Block, after: _Block) -> None:
        block.size += after.size
        block.after = after.after
        if after.after is not None:
            after.after.before = block
        if self._last[block.small] is after:
            self._last[block.small] = block

    def _best_fit(self, small: bool, size: int) -> _Block | None:
        pool = self._free[small]
        place = bisect_left(pool, (size, -1))
        if place == len(pool):
            return None
        block = self._at[pool[place][1]]
        self._unlist(block)
        return block

    def _from_driver(self, small: bool, size: int) -> _Block:
        if self.expandable:
            return self._extend(small, size)
        if small:
            segment = _SMALL_SEGMENT
        elif size < _LARGE_REQUEST:
            segment = _LARGE_SEGMENT
        else:
            segment = -(-size // _SMALL_SEGMENT) * _SMALL_SEGMENT
        self._reserve(segment)
        return self._new_block(segment, small)

    def _extend(self, small: bool, size: int) -> _Block:
        """Grow the pool's one segment by whole pages, using its free tail."""
        growth = self._growth(small, size)
        if self._over(growth):
            self._give_back()  # of the tail too: then more is needed
            growth = self._growth(small, size)
        self._reserve(growth)
        last = self._last[small]
        if last is not None and last.free:
            self._unlist(last)
            last.size += growth
            return last
        block = self._new_block(growth, small, after=last)
        self._last[small] = block
        return block

    def _growth(self, small: bool, size: int) -> int:
        page = _SMALL_SEGMENT if small else _LARGE_SEGMENT
        last = self._last[small]
        tail = last.size if last is not None and last.free else 0
        return -(-(size - tail) // page) * page

    def _over(self, segment: int) -> bool:
        return self.capacity is not None and self.reserved + segment > self.capacity

    def _new_block(self, size: int, small: bool, *, after: _Block | None = None) -> _Block:
        if after is not None:
            block = _Block(size, after.address + after.size, small, before=after)
            after.after = block
            return block
        # Far apart, so that segments never look adjacent.
        self._next_address += 1 << 44
        return _Block(size, self._next_address, small)

    def _reserve(self, segment: int) -> None:
        if self._over(segment):
            self._give_back()
            if self._over(segment):
                raise OutOfMemory(segment, self.allocated, self.reserved)
        self.reserved += segment
        self.max_reserved = max(self.max_reserved, self.reserved)

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size - size
        keep = rest < _ROUNDING if block.small or self.expandable else rest <= _SMALL_REQUEST
        if keep:
            return
        block.size = size
        tail = _Block(rest, block.address + size, block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = tail
        elif self._last[block.small] is block:
            self._last[block.small] = tail
        block.after = tail
        self._list(tail)

    def _give_back(self) -> None:
        """Return whole free segments, or the free pages at the end of an expandable one."""
        for small, pool in self._free.items():
            for _, address in list(pool):
                block = self._at[address]
                if self.expandable:
                    self._trim(block, small)
                elif block.before is None and block.after is None:
                    self._unlist(block)
                    self.reserved -= block.size

    def _trim(self, block: _Block, small: bool) -> None:
        if block is not self._last[small]:
            return
        page = _SMALL_SEGMENT if small else _LARGE_SEGMENT
        pages = block.size // page * page
        self._unlist(block)
        self.reserved -= pages
        block.size -= pages
        if block.size:
            self._list(block)
            return
        self._last[small] = block.before
        if block.before is not None:
            block.before.after = None
