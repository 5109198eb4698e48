"""A replay of PyTorch's caching allocator: what the device reserves while tensors come and go.

Rules of c10/cuda/CUDACachingAllocator.cpp with its default settings: sizes are rounded to 512 bytes; up to 1 MiB
comes from a pool of 2 MiB segments; larger sizes from segments of 20 MiB below 10 MiB and of a multiple of 2 MiB from
there on; a block is split when the rest is worth it; the smallest free block that fits is taken; neighbours merge.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ROUNDING = 512
_SMALL = 1 << 20
_SMALL_SEGMENT = 2 << 20
_LARGE_SEGMENT = 20 << 20
_LARGE_FROM = 10 << 20
_LARGE_ROUNDING = 2 << 20


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of one segment; ``left`` and ``right`` are its neighbours there."""

    size: int
    small: bool
    order: int
    free: bool = True
    left: Block | None = None
    right: Block | None = None


class CachingAllocator:
    """The allocator's state.

    Attributes:
        reserved_bytes: bytes of all segments.
        allocated_bytes: bytes of the blocks in use: what is left of a block too small to split counts as used.
        peak_reserved_bytes: the most reserved so far.
        peak_allocated_bytes: the most in use so far.
        granted: size of the block each key was given, in bytes.
    """

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self.allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.granted: dict[int, int] = {}
        self._used: dict[int, Block] = {}
        # (size, order) sorted: best fit, oldest first among equals
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._count = 0

    def allocate(self, key: int, size_bytes: float) -> None:
        """Give ``key`` a block of at least ``size_bytes``."""
        size = max(_ROUNDING, -int(-size_bytes // _ROUNDING) * _ROUNDING)
        small = size <= _SMALL
        block = self._best(size, small=small) or self._segment(size, small=small)
        self._split(block, size)
        block.free = False
        self._used[key] = block
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        self.granted[key] = block.size

    def release(self, key: int) -> None:
        """Return the block of ``key`` and merge it with free neighbours; unknown keys are ignored."""
        block = self._used.pop(key, None)
        if block is None:
            return
        self.allocated_bytes -= block.size
        left, right = block.left, block.right
        if left is not None and left.free:
            self._drop(left)
            block.size += left.size
            block.left = left.left
            if block.left is not None:
                block.left.right = block
        if right is not None and right.free:
            self._drop(right)
            block.size += right.size
            block.right = right.right
            if block.right is not None:
                block.right.left = block
        self._keep(block)

    def _best(self, size: int, *, small: bool) -> Block | None:
        rows = self._free[small]
        at = bisect_left(rows, size, key=lambda row: row[0])
        return rows.pop(at)[2] if at < len(rows) else None

    def _segment(self, size: int, *, small: bool) -> Block:
        if small:
            whole = _SMALL_SEGMENT
        elif size < _LARGE_FROM:
            whole = _LARGE_SEGMENT
        else:
            whole = -(-size // _LARGE_ROUNDING) * _LARGE_ROUNDING
        self.reserved_bytes += whole
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return self._block(whole, small=small)

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        if rest < _ROUNDING if block.small else rest <= _SMALL:
            return
        other = self._block(rest, small=block.small)
        other.left, other.right = block, block.right
        if block.right is not None:
            block.right.left = other
        block.right = other
        block.size = size
        self._keep(other)

    def _block(self, size: int, *, small: bool) -> Block:
        self._count += 1
        return Block(size, small, self._count)

    def _keep(self, block: Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size, block.order, block), key=lambda row: row[:2])

    def _drop(self, block: Block) -> None:
        rows = self._free[block.small]
        del rows[bisect_left(rows, (block.size, block.order), key=lambda row: row[:2])]

    def empty_cache(self) -> None:
        """Return every segment that is wholly free to the device."""
        for small in (True, False):
            whole = [row for row in self._free[small] if row[2].left is None and row[2].right is None]
            for row in whole:
                self._drop(row[2])
                self.reserved_bytes -= row[0]


def replay(events: Iterable[int], sizes: Sequence[int]) -> CachingAllocator:
    """Return the allocator after ``events``: ``+key`` allocates ``sizes[key]``, ``-key`` frees it, 0 empties."""
    allocator = CachingAllocator()
    for event in events:
        if event > 0:
            allocator.allocate(event, sizes[event])
        elif event < 0:
            allocator.release(-event)
        else:
            allocator.empty_cache()
    return allocator
