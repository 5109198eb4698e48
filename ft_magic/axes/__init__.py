"""Fine-tuning = signal (data) x method (loss) x update (which weights). Read this package first.

Each axis is one table of frozen rows: ``signals.py``, ``methods.py``, ``updates.py``. Magics, command-line options,
help texts, README tables, form choices and the parametrised tests are generated from these rows; no other file
lists them. What goes together with what is decided in ``planning`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ft_magic.axes.methods import METHODS
from ft_magic.axes.rows import Method, Signal, Update
from ft_magic.axes.signals import SIGNALS
from ft_magic.axes.updates import UPDATES
from ft_magic.errors import SpecError, nearest

__all__ = [
    "METHODS", "SIGNALS", "UPDATES", "Method", "Signal", "Update", "find_method", "find_signal", "find_update",
    "signal_of",
]  # fmt: skip

Row = TypeVar("Row")


def find_method(name: str) -> Method:
    """Return a method's row.

    Raises:
        SpecError: no such method.
    """
    return _find("method", name, METHODS)


def find_update(name: str) -> Update:
    """Return an update's row.

    Raises:
        SpecError: no such update.
    """
    return _find("update", name, UPDATES)


def find_signal(name: str) -> Signal:
    """Return a signal's row.

    Raises:
        SpecError: no such signal.
    """
    return _find("signal", name, SIGNALS)


def signal_of(row: Mapping[str, Any]) -> Signal | None:
    """Return the signal whose fields a normalised row has, the most specific first; None where none fits."""
    for name in ("pair", "label", "demo", "text", "prompt"):
        if any(all(key in row for key in keys) for keys in SIGNALS[name].fields):
            return SIGNALS[name]
    return None


def _find(axis: str, name: str, table: Mapping[str, Row]) -> Row:
    if name in table:
        return table[name]
    raise SpecError(
        f"{axis} '{name}' does not exist.{nearest(name, table)}", f"Choose one of: {', '.join(table)}."
    )
