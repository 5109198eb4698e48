"""What a person decided about rows: one JSON line a decision, on disk at once; the last about a row counts."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_magic.atomic import append_json_line
from ft_magic.data.provenance import row_key
from ft_magic.data.row import Row

ACCEPTED, EDITED, REJECTED, UNDECIDED = "accepted", "edited", "rejected", "undecided"
STATES = (ACCEPTED, EDITED, REJECTED, UNDECIDED)


@dataclass(frozen=True)
class Decision:
    """The word on one row.

    Attributes:
        state: one of ``STATES``.
        row: the row as edited, else None.
    """

    state: str = UNDECIDED
    row: Row | None = None


class Decisions:
    """Decisions in a file; found by the row's content, so they hold for the same row in another order too.

    Args:
        path: the file; it is read where it exists and made with the first decision.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)
        self._lock = threading.Lock()

    def about(self, row: Row) -> Decision:
        """Return the decision about a row."""
        return self._known.get(row_key(row), Decision())

    def add(self, row: Row, decision: Decision) -> None:
        """Keep a decision: on disk when this returns. Threads may call it at the same time."""
        key = row_key(row)
        with self._lock:
            line = {"v": 1, "t": round(time.time(), 3), "row": key, "state": decision.state}
            append_json_line(self.path, line | ({"edited": decision.row} if decision.row is not None else {}))
            self._known[key] = decision

    def counts(self, rows: tuple[Row, ...]) -> Mapping[str, int]:
        """Return state -> number of these rows, for every state."""
        found = Counter(self.about(row).state for row in rows)
        return {state: found[state] for state in STATES}


def _read(path: Path) -> dict[str, Decision]:
    found: dict[str, Decision] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            raw = json.loads(line)
            if raw["state"] in STATES:
                found[raw["row"]] = Decision(raw["state"], raw.get("edited"))
        except (ValueError, LookupError, TypeError):
            continue  # half-written by a killed process
    return found
