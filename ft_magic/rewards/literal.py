"""Simple values as Python source."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any


class NotLiteralError(Exception):
    """A value that has no literal.

    Args:
        value: the part that has none.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__(type(value).__name__)


def literal(value: Any) -> str:
    """Return source that makes an equal value: JSON's types, bytes, tuples, sets and compiled patterns.

    Raises:
        NotLiteralError: it holds anything else, or itself.
    """
    try:
        return _literal(value)
    except RecursionError:
        raise NotLiteralError(value) from None


def _literal(value: Any) -> str:
    write = _WRITERS.get(type(value))  # exact types: a subclass may behave differently
    if write is None:
        raise NotLiteralError(value)
    return write(value)


def _parts(values: Iterable[Any]) -> str:
    return ", ".join(map(_literal, values))


def _dict(value: dict[Any, Any]) -> str:
    return "{" + ", ".join(f"{_literal(key)}: {_literal(part)}" for key, part in value.items()) + "}"


def _set(value: AbstractSet[Any]) -> str:
    # Sorted as text, so that equal sets give equal source in every process.
    return f"{type(value).__name__}([{', '.join(sorted(map(_literal, value)))}])"


def _pattern(value: re.Pattern[Any]) -> str:
    return f"re.compile({_literal(value.pattern)}, {value.flags})"


_WRITERS: Mapping[type, Callable[[Any], str]] = MappingProxyType(
    {
        **dict.fromkeys((type(None), bool, int, str, bytes), repr),
        float: lambda value: repr(value) if math.isfinite(value) else f'float("{value}")',
        list: lambda value: f"[{_parts(value)}]",
        tuple: lambda value: f"({_parts(value)}{',' if len(value) == 1 else ''})",
        dict: _dict,
        set: _set,
        frozenset: _set,
        re.Pattern: _pattern,
    }
)
