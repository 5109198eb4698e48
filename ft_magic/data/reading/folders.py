"""Reads folders: text files as one row each, or the shards of one data set in the order of their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_magic.data.reading.asked import Asked
from ft_magic.data.reading.files import Raw, explained, read_text
from ft_magic.data.reading.kinds import Kind, kind_of_file, read_file
from ft_magic.errors import DataError, nearest

# Files that tell about a data set: of hub repositories, and what ``datasets`` writes beside its shards.
_ABOUT = re.compile(
    r"\.|(?:readme|license|licence|changelog|citation)\b|(?:state|dataset_info|dataset_dict|dataset_infos)\.json$",
    re.IGNORECASE,
)
# Names of splits as the hub knows them in file and folder names (train-00000-of-00002.parquet, test/0.jsonl).
_SPLIT = re.compile(r"(?:^|[/._-])(train|training|validation|valid|val|dev|test|testing|eval)(?=[/._-])")
_SAME_SPLIT = {"training": "train", "valid": "validation", "val": "validation", "testing": "test"}


def read_folder(folder: Path, asked: Asked) -> Raw:
    """Read every txt and md file below a folder as one row, or else the shards of its data set.

    Of shards in several splits (by their names), those of the split asked for are read, else of ``train``.

    Raises:
        DataError: the folder holds no such file, files of several kinds, or not the split asked for.
    """
    with explained(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    data = [path for path in files if not _ABOUT.match(path.name) and kind_of_file(path)]
    known = data or [path for path in files if kind_of_file(path)]
    prose = [path for path in known if _kind(path).prose]
    if prose:
        asked.check("a folder of text files")
        return _texts(folder, prose, len(files) - len(prose), asked)
    if not known:
        raise DataError(
            f"The folder {folder} holds no file that is read.", "Give a folder of text files or of shards."
        )
    return _shards(folder, known, asked)


def _kind(path: Path) -> Kind:
    kind = kind_of_file(path)
    if kind is None:
        raise LookupError(path)
    return kind


def _texts(folder: Path, prose: list[Path], left_out: int, asked: Asked) -> Raw:
    notes = [f"one row a file, {len(prose)} files"]
    if left_out:
        notes.append(f"{left_out} other files of the folder were not read")
    rows = [read_text(path) for path in prose[: asked.limit]]
    return Raw(folder.resolve().name, str(folder), rows, tuple(notes))


def _shards(folder: Path, files: list[Path], asked: Asked) -> Raw:
    kinds = Counter(_kind(path).title.partition(" ")[2] for path in files)
    if len(kinds) > 1:
        found = ", ".join(f"{count} x {title}" for title, count in kinds.items())
        raise DataError(
            f"The folder {folder} holds files of several kinds: {found}.",
            f"Give one file, for example '{files[0]}', or a folder with one kind.",
        )
    chosen, notes = _of_split(folder, files, asked.split)
    records: list[Any] = []
    of_files: set[str] = set()
    read = 0
    for raw in _each(chosen, replace(asked, split=None)):
        records += raw.records
        of_files.update(raw.notes)
        read += 1
        if asked.limit is not None and len(records) >= asked.limit:
            break
    about = f"{read} of {len(chosen)} files read, in the order of their names"
    return Raw(folder.resolve().name, str(folder), records, (about, *notes, *sorted(of_files)))


def _each(files: list[Path], asked: Asked) -> Iterator[Raw]:
    left = asked.limit
    for path in files:
        raw = read_file(path, replace(asked, limit=left))
        left = None if left is None else left - len(raw.records)
        yield raw


def _of_split(folder: Path, files: list[Path], asked: str | None) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files of the split to read, and what to say about the others."""
    splits: dict[str, list[Path]] = {}
    for path in files:
        match = _SPLIT.search(path.relative_to(folder).as_posix().lower())
        name = _SAME_SPLIT.get(match[1], match[1]) if match else ""
        splits.setdefault(name, []).append(path)
    names = [name for name in splits if name]
    if asked is None and len(splits) == 1:
        return files, ()
    wanted = _SAME_SPLIT.get(asked, asked) if asked is not None else "train"
    if wanted not in names:
        problem = (
            f"no split '{asked}'.{nearest(asked or '', names)}" if asked else "several splits, no 'train'."
        )
        raise DataError(
            f"The folder {folder} has {problem}",
            f"Say split='{names[0]}'; there are: {', '.join(names)}." if names else "Leave split= out.",
        )
    others = ", ".join(name or "files of no split" for name in splits if name != wanted)
    return splits[wanted], (
        f"split {wanted} by the names of the files" + (f"; not read: {others}" if others else ""),
    )
