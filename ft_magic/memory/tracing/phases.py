"""The largest moment of each phase of a recorded step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ft_magic.memory.tracing.traced import Instant

# What is left of a block too small to be split: counted by max_memory_allocated, in no tensor.
_ROUNDING = "block rounding"


@dataclass(frozen=True)
class Recording:
    """What a ledger wrote: see ``Ledger`` for the fields."""

    events: Sequence[int]
    sizes: Sequence[int]
    tags: Sequence[str]
    marks: Sequence[tuple[int, str]]
    owners: Sequence[int | None] = ()
    runs: Sequence[tuple[int, int | None]] = ()

    def instants(self, granted: Mapping[int, int] | None = None) -> tuple[Instant, ...]:
        """Return the largest moment after each mark, in order.

        Args:
            granted: bytes of the block each key was given; the sizes themselves where not given.
        """
        blocks = self.sizes if granted is None else [granted.get(key, 0) for key in range(len(self.sizes))]
        found: list[Instant] = []
        parts: dict[str, int] = defaultdict(int)
        position = 0
        for (_, name), top in zip(self.marks, self._tops(blocks), strict=True):
            for event in self.events[position:top]:
                key, sign = abs(event), 1 if event > 0 else -1
                parts[self.tags[key]] += sign * self.sizes[key]
                parts[_ROUNDING] += sign * (blocks[key] - self.sizes[key])
            position = max(position, top)
            now = MappingProxyType({part: size for part, size in parts.items() if size})
            found.append(Instant(name, sum(now.values()), now))
        return tuple(found)

    def _tops(self, blocks: Sequence[int]) -> list[int]:
        """Return how many events have passed at the largest moment of each marked stretch."""
        totals = [0]
        for event in self.events:
            totals.append(totals[-1] + (blocks[event] if event > 0 else -blocks[-event]))
        starts = [place for place, _ in self.marks]
        ends = [*starts[1:], len(self.events)]
        return [
            max(range(start, end + 1), key=totals.__getitem__)
            for start, end in zip(starts, ends, strict=True)
        ]
