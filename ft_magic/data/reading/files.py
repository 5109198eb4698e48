"""Reads json, jsonl and ndjson files into records, before any column is understood.

Text is UTF-8, with or without a byte order mark. Which reader opens which file says ``kinds``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic.data.reading.archives import BrokenArchiveError, archive_of, open_bytes, without_archive
from ft_magic.data.row import shortened
from ft_magic.errors import DataError

_AROUND_CHARACTERS = 40  # shown on each side of a JSON fault
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Raw:
    """Records as read.

    Attributes:
        name: short name of the source.
        source: where it was read from, as text.
        records: one object or string a row.
        notes: what was decided while reading, one sentence each.
    """

    name: str
    source: str
    records: list[Any]
    notes: tuple[str, ...] = ()


def suffix_of(path: Path) -> str:
    """Return the lower-case suffix without a trailing ``.gz`` or ``.zst``."""
    return Path(without_archive(path.name).lower()).suffix


def stem_of(path: Path) -> str:
    """Return the name without its known suffixes."""
    name = without_archive(path.name)
    return name[: len(name) - len(Path(name).suffix)] or name


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's, gzip's and zstd's faults into one clear line.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{path} may not be read: permission denied.", f"Allow it (chmod u+r '{path}') or give a copy."
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError, BrokenArchiveError) as error:
        kind = "zstd" if archive_of(path.name) == ".zst" else "gzip"
        raise DataError(
            f"{path.name} is no complete {kind} file: {error}.", "Download or compress it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error


def decode(content: bytes, path: Path, first_line: int = 1) -> str:
    """Return bytes as text; UTF-8 with or without a byte order mark.

    Raises:
        DataError: the bytes are no UTF-8; says which byte, in which line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        encoding = "utf-16" if content[:2] in _UTF16_MARKS else "cp1252"
        raise DataError(
            f"{path.name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 (perhaps {encoding}).",
            f"Convert it first: Path('new{path.suffix}').write_text("
            f"Path('{path.name}').read_text(encoding='{encoding}'), encoding='utf-8').",
        ) from error


def read_text(path: Path) -> str:
    """Return a whole file as text.

    Raises:
        DataError: it cannot be read or decoded.
    """
    with explained(path), open_bytes(path) as file:
        content = file.read()
    return decode(content, path)


def read_json(path: Path) -> Raw:
    """Read a JSON file: a list of objects, or an object that holds one such list.

    Raises:
        DataError: no JSON, or no list of rows in it.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            raw = read_json_lines(path)
            return Raw(raw.name, raw.source, raw.records, ("the file holds one JSON object a line",))
        raise _broken_json(path, error.lineno, error, text) from error
    except RecursionError as error:
        raise DataError(f"{path.name} is nested too deeply.", "Give a list of flat objects.") from error
    rows, notes = _rows_in(value, path)
    return Raw(stem_of(path), str(path), rows, notes)


def read_json_lines(path: Path, limit: int | None = None) -> Raw:
    """Read one JSON value a line, at most ``limit`` of them; empty lines are skipped.

    Raises:
        DataError: a line is no JSON; names the file and the line.
    """
    records: list[Any] = []
    with explained(path), open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            text = decode(line, path, number)
            try:
                records.append(json.loads(text))
            except json.JSONDecodeError as error:
                raise _broken_json(path, number, error, text) from error
            if limit is not None and len(records) >= limit:
                break
    return Raw(stem_of(path), str(path), records)


def _rows_in(value: Any, path: Path) -> tuple[list[Any], tuple[str, ...]]:
    if isinstance(value, list):
        return value, ()
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list) and _all_objects(item)]
        if "data" in lists or len(lists) == 1:
            key = "data" if "data" in lists else lists[0]
            return value[key], (f"rows taken from the key '{key}' of the file",)
    what = (
        f"an object with the keys {', '.join(map(str, value))}"
        if isinstance(value, dict)
        else shortened(value)
    )
    raise DataError(
        f"{path.name} holds {shortened(what, 120)}, not a list of rows.",
        'Write it as [{"prompt": "...", "completion": "..."}, ...] or as one object a line (.jsonl).',
    )


def _all_objects(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) for item in items)


def _broken_json(path: Path, line: int, error: json.JSONDecodeError, text: str) -> DataError:
    start = max(error.pos - _AROUND_CHARACTERS, 0)
    around = text[start : error.pos] + "⟨here⟩" + text[error.pos : error.pos + _AROUND_CHARACTERS]
    return DataError(
        f"{path.name}, line {line}, column {error.colno}: not valid JSON ({error.msg}).",
        f"The text there: {shortened(around, 2 * _AROUND_CHARACTERS + 10)}",
    )
