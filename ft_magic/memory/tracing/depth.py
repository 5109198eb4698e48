"""A recording of few layers stretched to many: the middle layer's events repeated in their places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ft_magic.memory.tracing.phases import Recording

# The layer that is repeated, and its neighbours, must be alike: first and last layers differ.
TRACED = 5
MIDDLE = 2


def stretched(recording: Recording, layers: int) -> Recording | None:
    """Return what ``layers`` layers would have recorded; None where the middle layers are not alike.

    Args:
        recording: of a model of ``TRACED`` layers.
        layers: how many to answer for, at least ``TRACED``.
    """
    owned = _owned(recording)
    middle = owned[MIDDLE]
    for layer in (MIDDLE - 1, MIDDLE + 1):
        if [recording.sizes[key] for key in owned[layer]] != [recording.sizes[key] for key in middle]:
            return None
    twins = {
        key: twin
        for layer in (MIDDLE - 1, MIDDLE + 1)
        for key, twin in zip(owned[layer], middle, strict=True)
    }
    return _Stretch(recording, layers - TRACED + 1, twins).made()


def _owned(recording: Recording) -> dict[int, list[int]]:
    """Return the keys of each layer, in order of their birth."""
    owned: dict[int, list[int]] = defaultdict(list)
    for key in recording.events:
        if key > 0 and (layer := recording.owners[key]) is not None:
            owned[layer].append(key)
    return owned


@dataclass
class _Stretch:
    """The stretched recording while it is made.

    Attributes:
        source: what is stretched.
        copies: how many layers stand in the middle layer's place.
        twins: key of a neighbouring layer -> the key of the middle layer that is to it what it is to the neighbour.
        names: ``(copy, key of the middle layer)`` -> key in the stretched recording.
    """

    source: Recording
    copies: int
    twins: dict[int, int]
    names: dict[tuple[int, int], int] = field(default_factory=dict)
    events: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def made(self) -> Recording:
        """Return the stretched recording."""
        self.sizes, self.tags = list(self.source.sizes), list(self.source.tags)
        marks: list[tuple[int, str]] = []
        waiting = list(self.source.marks)
        runs = [*self.source.runs, (len(self.source.events), None)]
        for (start, layer), (end, following) in pairwise(runs):
            while waiting and waiting[0][0] <= start:
                marks.append((len(self.events), waiting.pop(0)[1]))
            if layer != MIDDLE:
                self._outside(self.source.events[start:end], layer)
                continue
            order = range(self.copies) if following == MIDDLE + 1 else range(self.copies - 1, -1, -1)
            for copy in order:
                self._inside(self.source.events[start:end], copy)
        return Recording(tuple(self.events), tuple(self.sizes), tuple(self.tags), tuple(marks))

    def _inside(self, events: Sequence[int], copy: int) -> None:
        """Write one copy of a run of the middle layer."""
        for event in events:
            key = abs(event)
            owner = self.source.owners[key]
            if owner == MIDDLE:
                self._write(event, copy)
            elif owner == MIDDLE - 1 and copy > 0:
                self._write(-self.twins[key], copy - 1)
            elif owner == MIDDLE + 1 and copy < self.copies - 1:
                self._write(-self.twins[key], copy + 1)
            elif owner in (MIDDLE - 1, MIDDLE + 1) or copy == 0:
                self.events.append(event)

    def _outside(self, events: Sequence[int], layer: int | None) -> None:
        """Write a run of another layer, or of none: what it does to the middle layer it does to every copy."""
        for event in events:
            if self.source.owners[abs(event)] != MIDDLE:
                self.events.append(event)
            elif layer == MIDDLE + 1:
                self._write(event, self.copies - 1)
            elif layer == MIDDLE - 1:
                self._write(event, 0)
            else:
                for copy in range(self.copies):
                    self._write(event, copy)

    def _write(self, event: int, copy: int) -> None:
        """Write an event of the middle layer for one of its copies."""
        key = abs(event)
        if (copy, key) not in self.names:
            self.names[copy, key] = len(self.sizes)
            self.sizes.append(self.source.sizes[key])
            self.tags.append(self.source.tags[key])
        name = self.names[copy, key]
        self.events.append(name if event > 0 else -name)
