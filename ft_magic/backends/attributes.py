"""What a trainer carries besides its model, kept and put back, so that a try leaves no trace. Worker only."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN = (int, float, str, bool, bytes, type(None))


@dataclass(frozen=True)
class Attributes:
    """The attributes of an object at one moment: its counters and lists by value, everything else by reference."""

    owner: Any
    values: Mapping[str, Any]

    @classmethod
    def of(cls, owner: Any) -> Attributes:
        """Return the attributes of an object as they are."""
        values = {name: copy.deepcopy(it) if _plain(it) else it for name, it in vars(owner).items()}
        return cls(owner, values)

    def put_back(self) -> None:
        """Give the object these attributes and no others."""
        held = vars(self.owner)
        for name in held.keys() - self.values.keys():
            del held[name]
        held.update(self.values)


def _plain(value: Any) -> bool:
    """Return whether a value is made of numbers, text and containers of them alone."""
    if isinstance(value, Mapping):
        return all(_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set | deque):
        return all(_plain(part) for part in value)
    return isinstance(value, _PLAIN)
