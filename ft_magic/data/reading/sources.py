"""Finds out what kind of source was given and has its reader read it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_magic.data.reading import web
from ft_magic.data.reading.asked import Asked
from ft_magic.data.reading.files import Raw, suffix_of
from ft_magic.data.reading.folders import read_folder
from ft_magic.data.reading.hub_sets import read_dataset, read_hub
from ft_magic.data.reading.kinds import SUFFIXES, read_file
from ft_magic.data.reading.tables import read_frame
from ft_magic.data.row import shortened
from ft_magic.errors import DataError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_source(src: Any, asked: Asked) -> Raw:
    """Read any source into records.

    Raises:
        DataError: it is none, cannot be read, or was asked for a part it does not have.
    """
    library = type(src).__module__.partition(".")[0]
    if isinstance(src, str | Path):
        return _read_reference(src, asked)
    if library == "datasets":
        return read_dataset(src, asked)
    asked.check(f"a {type(src).__name__}")
    if library == "pandas" and hasattr(src, "to_dict") and hasattr(src, "columns"):
        return read_frame(src, asked.limit)
    if isinstance(src, list | tuple):
        return Raw("rows", f"a list of {len(src)} rows", list(src[: asked.limit]))
    hint = (
        "Wrap it in a list: [row]." if isinstance(src, Mapping) else "Give a path, DataFrame, list or hub id."
    )
    raise DataError(f"{type(src).__name__} is no data that can be read.", hint)


def _read_reference(src: str | Path, asked: Asked) -> Raw:
    text = str(src).strip()
    path = Path(text).expanduser()
    if not text:
        raise DataError("The data is an empty text.", "Give a path, a hub id (org/name) or a variable.")
    if isinstance(src, str) and web.is_address(text):
        file, how = web.fetch(text, asked.progress)
        raw = read_file(file, asked)
        return replace(raw, source=web.shown(text), notes=(how, *raw.notes))
    try:
        exists = path.exists()
    except OSError:  # a text too long for a file name
        exists = False
    if exists:
        return read_folder(path, asked) if path.is_dir() else read_file(path, asked)
    if "\n" in text:
        raise DataError(f"A text is no data: {shortened(text)}", "Give a list of texts: [text].")
    looks_like_hub_id = isinstance(src, str) and _HUB_ID.fullmatch(text) and not text.startswith(".")
    # `data/train` beside a folder `data` is a missing file, not the hub's organisation called data.
    if looks_like_hub_id and suffix_of(path) not in SUFFIXES and not path.parent.is_dir():
        asked.check(f"'{text}', a hub id,", "split", "revision", "subset")
        return read_hub(text, asked)
    raise _missing(path)


def _missing(path: Path) -> DataError:
    folder = path.parent
    here = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, here, n=3, cutoff=0.4)
    where = f"the folder {folder.resolve()}" if here or folder.is_dir() else f"{folder} (no such folder)"
    readable = [name for name in here if suffix_of(Path(name)) in SUFFIXES]
    if near:
        instead = f"Near it: {', '.join(near)}."
    elif readable:
        instead = f"There are: {', '.join(readable[:5])}."
    else:
        instead = "Give a path to a file, or a hub id as org/name."
    return DataError(f"File not found: '{path.name}' in {where}.", instead)
