"""Where each made row came from: a file beside the rows, found by the rows' content.

The rows themselves carry nothing, so they stay what methods and trainers expect; the record follows a row through
``part``, ``split`` and ``fix`` because it is found by the row's own digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.data.row import Row, canonical

if TYPE_CHECKING:
    from ft_magic.data.data import Data

FILE = "provenance.jsonl"
Record = Mapping[str, Any]


def row_key(row: Row) -> str:
    """Return the SHA-256 of a row: equal rows have equal keys."""
    return hashlib.sha256(canonical(row).encode()).hexdigest()


def records_of(data: Data) -> tuple[Record | None, ...]:
    """Return the record of each row, in order; None for rows that were read, not made."""
    # Only a file of rows has records beside it; other sources are hub ids, addresses or words.
    known = read(file_of(data.source)) if Path(data.source).suffix == ".jsonl" else {}
    return tuple(known.get(row_key(row)) for row in data.rows) if known else (None,) * len(data)


def file_of(source: str) -> Path:
    """Return the file that holds the records of rows read from ``source``, whether it exists or not."""
    return Path(source or "rows").with_name(FILE)


def read(file: Path) -> dict[str, Record]:
    """Return key -> record of a file, the last of a key; empty where there is no file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, Record] = {}
    for line in lines:
        try:
            record = json.loads(line)
            found[record["row"]] = record
        except (ValueError, LookupError, TypeError):
            continue  # half-written by a killed process
    return found
