"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called as progress("what is being done", done, total); done and total share one unit, total 0 means unknown.
Progress = Callable[[str, float, float], None]


def silent(what: str, done: float, total: float) -> None:
    """Show nothing; the default where a caller gave no progress function."""
