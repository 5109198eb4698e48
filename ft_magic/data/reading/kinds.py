"""The kinds of file that are read, as one table: suffixes, reader and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ft_magic.data.reading.archives import SUFFIXES as ARCHIVES
from ft_magic.data.reading.archives import archive_of
from ft_magic.data.reading.arrow import read_arrow, read_parquet
from ft_magic.data.reading.asked import Asked
from ft_magic.data.reading.databases import read_sqlite
from ft_magic.data.reading.files import Raw, read_json, read_json_lines, suffix_of
from ft_magic.data.reading.prose import read_prose
from ft_magic.data.reading.spreadsheets import read_spreadsheet
from ft_magic.data.reading.tables import read_csv
from ft_magic.errors import DataError


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        title: what it is called in messages, with its article.
        suffixes: how such files end.
        read: reads one.
        options: names of the options it has a use for.
        archived: whether it may be compressed as a whole (``.gz``, ``.zst``).
        prose: whether a file is text without columns.
    """

    title: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Asked], Raw]
    options: tuple[str, ...] = ()
    archived: bool = True
    prose: bool = False


KINDS = (
    Kind("a JSON file", (".json",), lambda path, _: read_json(path)),
    Kind("a JSON lines file", (".jsonl", ".ndjson"), lambda path, asked: read_json_lines(path, asked.limit)),
    Kind("a csv file", (".csv", ".tsv"), lambda path, asked: read_csv(path, asked.limit)),
    Kind(
        "a parquet file", (".parquet",), lambda path, asked: read_parquet(path, asked.limit), archived=False
    ),
    Kind(
        "an arrow file",
        (".arrow", ".feather"),
        lambda path, asked: read_arrow(path, asked.limit),
        archived=False,
    ),
    Kind(
        "a spreadsheet",
        (".xlsx", ".xls", ".ods"),
        lambda path, asked: read_spreadsheet(path, asked.limit, asked.sheet),
        ("sheet",),
        archived=False,
    ),
    Kind(
        "a SQLite file",
        (".db", ".sqlite", ".sqlite3"),
        lambda path, asked: read_sqlite(path, asked.limit, asked.table, asked.query),
        ("table", "query"),
        archived=False,
    ),
    Kind("a text file", (".txt", ".md"), lambda path, _: read_prose(path), prose=True),
)
SUFFIXES = tuple(suffix for kind in KINDS for suffix in kind.suffixes)
_BY_SUFFIX = {suffix: kind for kind in KINDS for suffix in kind.suffixes}


def kind_of_file(path: Path) -> Kind | None:
    """Return the kind a file's name says; None where files of that name are not read."""
    return _BY_SUFFIX.get(suffix_of(path))


def read_file(path: Path, asked: Asked) -> Raw:
    """Read one file by what its name says it is.

    Raises:
        DataError: it is of no kind that is read, is empty or damaged, or was asked for what it does not have.
    """
    kind = kind_of_file(path)
    if kind is None:
        raise DataError(
            f"{path.name} is of a kind that is not read ('{suffix_of(path) or 'no suffix'}').",
            f"Kinds that are: {' '.join(SUFFIXES)} ({_archivable()} also with {' or '.join(ARCHIVES)}).",
        )
    if archive_of(path.name) and not kind.archived:
        raise DataError(
            f"{path.name} is {kind.title} compressed as a whole, which is not read.",
            "Decompress it first; such files are compressed inside where that pays.",
        )
    asked.check(f"{path.name}, {kind.title},", *kind.options)
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    if size_bytes == 0:
        raise DataError(f"{path} is empty (0 bytes).", "Give a file with rows.")
    return kind.read(path, asked)


def _archivable() -> str:
    return " ".join(suffix for kind in KINDS if kind.archived for suffix in kind.suffixes)
