"""The folder of one synthesis: what was asked, every reply as it came, and the rows that stayed.

    request.json  replies.jsonl  rows.jsonl  provenance.jsonl  left_out.jsonl

``replies.jsonl`` is what counts: the rest follows from it, so a killed process loses nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_magic import atomic
from ft_magic.data import provenance
from ft_magic.data.row import Row
from ft_magic.errors import DataError

REPLIES, ROWS, LEFT_OUT, REQUEST = "replies.jsonl", "rows.jsonl", "left_out.jsonl", "request.json"


@dataclass(frozen=True)
class Folder:
    """Where a synthesis keeps its files."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def begin(self, request: Mapping[str, Any]) -> None:
        """Write what is asked, or see that it is what was asked here before; the rest is written anew.

        Raises:
            DataError: the folder holds another synthesis, or other files.
        """
        file = self.path / REQUEST
        if file.exists():
            held = json.loads(file.read_text(encoding="utf-8"))
            other = [key for key in request if held.get(key) != json.loads(json.dumps(request[key]))]
            if other:
                raise DataError(
                    f"{self.path} holds a synthesis with other settings ({', '.join(other)}).",
                    "Name another folder, or leave it out: each synthesis gets its own.",
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise DataError(f"{self.path} holds other files.", "Name a new or empty folder.")
        self.path.mkdir(parents=True, exist_ok=True)
        atomic.write_json(file, request)
        # Without the end of a line that a killed process left half-written.
        lines = [json.dumps(reply, ensure_ascii=False) + "\n" for reply in self.replies()]
        atomic.write_text(self.path / REPLIES, "".join(lines))
        for name in (ROWS, provenance.FILE, LEFT_OUT):
            atomic.write_text(self.path / name, "")

    def replies(self) -> list[dict[str, Any]]:
        """Return the replies given so far, in the order they were asked."""
        file = self.path / REPLIES
        found: dict[int, dict[str, Any]] = {}
        for line in file.read_bytes().split(b"\n") if file.exists() else ():
            try:
                reply = json.loads(line)
                found[int(reply["number"])] = reply
            except (ValueError, LookupError, TypeError):
                continue  # half-written by a killed process: it is asked again
        return [found[number] for number in sorted(found)]

    def add_reply(self, reply: Mapping[str, Any]) -> None:
        """Keep a reply: on disk when this returns. Threads may call it at the same time."""
        with self._lock:
            atomic.append_json_line(self.path / REPLIES, {"v": 1, "t": round(time.time(), 3), **reply})

    def keep(self, row: Row, record: Mapping[str, Any]) -> None:
        """Add a row that stays, with its origin."""
        atomic.append_json_line(self.path / ROWS, row)
        atomic.append_json_line(self.path / provenance.FILE, record)

    def leave_out(self, row: Row, why: str, record: Mapping[str, Any]) -> None:
        """Add a row that does not stay, with the reason."""
        line = {"why": why, "request": record["request"], "values": row}
        atomic.append_json_line(self.path / LEFT_OUT, line)
