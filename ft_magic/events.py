"""Events: the one record of what happened, append-only JSON lines.

Charts, attach, resume, comparison, tests and reports read nothing else. One line is one event:
``{"v": 1, "t": <unix s>, "kind": "step", ...fields}``. A half-written last line is normal (the writer may be
killed at any byte) and is left alone until the rest arrives.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
KINDS = (
    "planned", "started", "loaded", "preflight", "step", "eval", "sample", "checkpoint", "warning", "oom_retry",
    "stopped", "failed", "finished", "progress", "evaluated", "merged", "quantized", "certified",
)  # fmt: skip
TERMINAL = ("stopped", "failed", "finished")


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run.

    Attributes:
        kind: one of ``KINDS``.
        t: Unix time in seconds.
        data: the other fields of the line, as written.
    """

    kind: str
    t: float
    data: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key) if key in ("kind", "t") else self.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, or ``default`` where the event has none."""
        return getattr(self, key) if key in ("kind", "t") else self.data.get(key, default)

    def to_json(self) -> str:
        """Return the event as one JSON line without the newline; NaN and infinities become null."""
        return json.dumps(_finite({"v": VERSION, "t": round(self.t, 3), "kind": self.kind, **self.data}))


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None: they are not JSON, and other readers choke on them."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def parse(line: str) -> Event | None:
    """Read one line; None when it is no complete event (half-written, or not JSON)."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if not isinstance(raw, dict) or "kind" not in raw or "t" not in raw:
        return None
    data = {k: v for k, v in raw.items() if k not in ("v", "t", "kind")}
    return Event(kind=str(raw["kind"]), t=float(raw["t"]), data=data)


class Writer:
    """Appends events to a file, one ``write`` call a line so that readers never see two halves mixed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _end_half_line(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._half = False  # whether the last line was cut short by a full disk

    def emit(self, kind: str, **fields: Any) -> Event:
        """Append one event with the present time and return it.

        Raises:
            OSError: it cannot be written, or not whole; the next event stands on its own line all the same.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown event kind {kind!r}; known: {', '.join(KINDS)}")
        event = Event(kind=kind, t=time.time(), data=fields)
        line = ("\n" * self._half + event.to_json() + "\n").encode()
        written = os.write(self._fd, line)
        self._half = written < len(line)
        if self._half:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return event

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _end_half_line(path: Path) -> None:
    """End a line that a killed writer left half-written, so that the next event stands on its own line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


class Reader:
    """Reads the events that have been added since the last call; keeps half lines for later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def new(self) -> list[Event]:
        """Return the complete events added since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            chunk = file.read()
        self._offset += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = (parse(line.decode(errors="replace")) for line in lines if line.strip())
        return [event for event in found if event is not None]


def read(path: Path) -> list[Event]:
    """Return every complete event of a file, oldest first; an empty list where there is no file."""
    return Reader(path).new()


def of_kind(events: list[Event], *kinds: str) -> Iterator[Event]:
    """Iterate over the events of the given kinds."""
    return (event for event in events if event.kind in kinds)
