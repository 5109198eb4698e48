"""What PyTorch's caching allocator takes from the device for a stream of allocations.

A replay of ``c10/cuda/CUDACachingAllocator.cpp`` with default settings: sizes rounded to 512 bytes; a pool of 2 MiB
segments for sizes up to 1 MiB; else segments of 20 MiB below 10 MiB and multiples of 2 MiB above; best fit; a rest
is split off where it is at least 512 bytes (small pool) or more than 1 MiB; neighbours join when freed.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIB = 2**20
_ROUND = 512


class Piece:
    """A piece of a segment."""

    __slots__ = ("before", "free", "number", "size", "then")

    def __init__(self, size: int, number: int) -> None:
        self.size = size
        self.number = number
        self.free = False
        self.before: Piece | None = None
        self.then: Piece | None = None


class Allocator:
    """The pools; ``reserved`` is what they hold now (they never give back)."""

    def __init__(self) -> None:
        """Start with nothing reserved."""
        self.reserved = 0
        self._pools: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self._pieces: dict[int, Piece] = {}
        self._made = 0

    def take(self, wanted: float) -> Piece:
        """Allocate ``wanted`` bytes."""
        size = max(_ROUND, -int(-wanted // _ROUND) * _ROUND)
        large = size > MIB
        pool = self._pools[large]
        place = bisect_left(pool, (size, 0))
        if place < len(pool):
            piece = self._pieces[pool.pop(place)[1]]
        else:
            segment = (
                2 * MIB if not large else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            )
            self.reserved += segment
            piece = self._piece(segment)
        rest = piece.size - size
        if rest > MIB or (not large and rest >= _ROUND):
            self._split(piece, size, pool)
        piece.free = False
        return piece

    def give(self, piece: Piece) -> None:
        """Free a piece, joining it with free neighbours."""
        pool = self._pools[_segment_is_large(piece)]
        before, then = piece.before, piece.then
        if before is not None and before.free:
            pool.remove((before.size, before.number))
            piece.size += before.size
            piece.before = before.before
            if before.before is not None:
                before.before.then = piece
        if then is not None and then.free:
            pool.remove((then.size, then.number))
            piece.size += then.size
            piece.then = then.then
            if then.then is not None:
                then.then.before = piece
        piece.free = True
        insort(pool, (piece.size, piece.number))

    def _split(self, piece: Piece, size: int, pool: list[tuple[int, int]]) -> None:
        rest = self._piece(piece.size - size)
        rest.free = True
        rest.before, rest.then = piece, piece.then
        if piece.then is not None:
            piece.then.before = rest
        piece.then = rest
        piece.size = size
        insort(pool, (rest.size, rest.number))

    def _piece(self, size: int) -> Piece:
        self._made += 1
        piece = Piece(size, self._made)
        self._pieces[self._made] = piece
        return piece


def _segment_is_large(piece: Piece) -> bool:
    total, at = piece.size, piece
    while at.before is not None:
        at = at.before
        total += at.size
    at = piece
    while at.then is not None:
        at = at.then
        total += at.size
    return total > 2 * MIB
