"""load_data: anything people have -> rows of one signal."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ft_magic.axes import find_signal
from ft_magic.data.cells import UnusableError
from ft_magic.data.data import Data, Dropped, DroppedRow
from ft_magic.data.detect import Detected, detect
from ft_magic.data.files import (
    JSON_LINES_SUFFIXES,
    JSON_SUFFIXES,
    PROSE_SUFFIXES,
    SUFFIXES,
    Raw,
    read_json,
    read_json_lines,
    suffix_of,
)
from ft_magic.data.normalise import NO_ANSWER, Reader, own_name
from ft_magic.data.prose import read_folder, read_prose
from ft_magic.data.row import ANSWER, Row, shortened
from ft_magic.data.tables import read_csv, read_frame, read_parquet
from ft_magic.data.turns import is_chat
from ft_magic.errors import DataError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN_DROPS = 5


def load_data(
    src: Any,
    *,
    signal: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Data:
    """Read training data and bring it to rows of one signal.

    Args:
        src: path of a json, jsonl, ndjson, csv, tsv, parquet, txt or md file (also ``.gz``) or of a folder of
            txt and md files; a DataFrame; a list of dicts, of strings or of conversations; a ``datasets``
            object; a hub id ``org/name``; or ``Data``, returned as it is.
        signal: name of a signal (``ft_magic.axes.SIGNALS``), where the guess should be overruled; data that
            carries another is converted where it can be, see ``Data.to``.
        columns: role -> column, for example ``{"prompt": "question", "completion": "reply"}``.
        limit: number of source rows to read at most.

    Raises:
        DataError: it cannot be read, has no known shape, or no row of it can be used.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; it is a number of rows.", "Write limit=100, or leave it out.")
    if isinstance(src, Data):
        return _given_data(src, signal, columns, limit)
    raw = _read(src, limit)
    if not raw.records:
        raise DataError(f"{raw.source} holds no rows.", "Give data with at least one row.")
    records = [_as_record(record) for record in raw.records[:limit]]
    detected = detect(records, raw.source, signal, columns)
    data = _normalised(raw, records, detected)
    return data if signal is None else data.to(signal)


def _normalised(raw: Raw, records: list[Any], detected: Detected) -> Data:
    reader = Reader(detected)
    rows: list[Row] = []
    reasons: Counter[str] = Counter()
    examples: list[DroppedRow] = []
    for index, record in enumerate(records):
        try:
            rows.append(reader.row(record))
        except UnusableError as error:
            reasons[str(error)] += 1
            if len(examples) < _SHOWN_DROPS:
                examples.append(DroppedRow(index, str(error), shortened(record)))
    dropped = Dropped(dict(reasons), tuple(examples))
    columns = dict(detected.columns)
    if not rows:
        raise DataError(
            f"{raw.source}: none of {len(records)} rows can be used ({dropped}).",
            f"Columns were read as {columns}; the first row is {shortened(records[0], 200)}.\n"
            'Say otherwise with columns={"prompt": "...", "completion": "..."}'
            + (", or signal='prompt' where these are prompts." if NO_ANSWER in reasons else "."),
        )
    if detected.shape.signal == "prompt":
        rows = _with_equal_columns(rows)
    lineage = [f"{len(records)} rows read from {raw.source}", *raw.notes]
    lineage.append(f"shape {detected.shape.name}: " + ", ".join(f"{r} = {c}" for r, c in columns.items()))
    if "input" in columns:
        lineage.append(
            f"'{columns['input']}' follows '{columns['prompt']}' after an empty line where it is filled"
        )
    lineage += [*_about_unused(detected, rows), *detected.notes]
    lineage += [f"{count} x {change}" for change, count in reader.changes.items()]
    if dropped:
        lineage.append(f"{dropped.count} rows kept out: {dropped}")
    signal, shape = detected.shape.signal, detected.shape.name
    return Data(tuple(rows), signal, raw.name, raw.source, shape, columns, dropped, tuple(lineage))


def _with_equal_columns(rows: list[Row]) -> list[Row]:
    """Give every prompt row every column, None where the source had none: reward functions get columns."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _about_unused(detected: Detected, rows: list[Row]) -> list[str]:
    """Say what became of columns that play no role."""
    if detected.shape.signal != "prompt":
        return [f"columns not used: {', '.join(detected.unused)}"] if detected.unused else []
    roles = ("prompt", ANSWER) if ANSWER in detected.columns else ("prompt",)
    kept = [column for column in rows[0] if column not in roles]
    names = {column: own_name(column, detected.columns, detected.unused) for column in detected.unused}
    notes = [f"columns kept for reward functions: {', '.join(kept)}"] if kept else []
    renamed = [f"'{column}' is called '{name}'" for column, name in names.items() if name != column]
    return [*notes, *(f"{note}: a row means something else by its name" for note in renamed)]


def _as_record(value: Any) -> Any:
    """Give bare strings and bare conversations a column name."""
    if isinstance(value, str):
        return {"text": value}
    return {"messages": value} if is_chat(value) else value


def _given_data(data: Data, signal: str | None, columns: Mapping[str, str] | None, limit: int | None) -> Data:
    wanted = data.signal if signal is None else find_signal(signal).name
    if columns is not None or wanted not in (data.signal, *find_signal(data.signal).converts_to):
        raise DataError(
            f"{data.name} is already read as {data.signal} rows; columns and signal cannot change it.",
            "Load it again from its source with these options.",
        )
    part = data if limit is None or limit >= len(data) else data[:limit]
    return part.to(wanted)


def _read(src: Any, limit: int | None) -> Raw:
    library = type(src).__module__.partition(".")[0]
    if isinstance(src, str | Path):
        return _read_reference(src, limit)
    if library == "pandas" and hasattr(src, "to_dict") and hasattr(src, "columns"):
        return read_frame(src, limit)
    if library == "datasets":
        return _read_dataset(src, limit)
    if isinstance(src, list | tuple):
        return Raw("rows", f"a list of {len(src)} rows", list(src[:limit]))
    hint = (
        "Wrap it in a list: [row]." if isinstance(src, Mapping) else "Give a path, DataFrame, list or hub id."
    )
    raise DataError(f"{type(src).__name__} is no data that can be read.", hint)


def _read_reference(src: str | Path, limit: int | None) -> Raw:
    text = str(src).strip()
    path = Path(text).expanduser()
    if not text:
        raise DataError("The data is an empty text.", "Give a path, a hub id (org/name) or a variable.")
    try:
        exists = path.exists()
    except OSError:  # a text too long for a file name
        exists = False
    if exists:
        return _read_path(path, limit)
    if text.startswith(("http://", "https://")):
        raise DataError(
            f"{shortened(text)} is a web address; these are not read.", "Download it and give the file."
        )
    if "\n" in text:
        raise DataError(f"A text is no data: {shortened(text)}", "Give a list of texts: [text].")
    looks_like_hub_id = isinstance(src, str) and _HUB_ID.fullmatch(text) and not text.startswith(".")
    # `data/train` beside a folder `data` is a missing file, not the hub's organisation called data.
    if looks_like_hub_id and suffix_of(path) not in SUFFIXES and not path.parent.is_dir():
        return _read_hub(text, limit)
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


def _read_path(path: Path, limit: int | None) -> Raw:
    if path.is_dir():
        return read_folder(path, limit)
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path.name} is of a kind that is not read ('{suffix or 'no suffix'}').",
            f"Kinds that are: {' '.join(SUFFIXES)} (each also with .gz, except .parquet).",
        )
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    if size_bytes == 0:
        raise DataError(f"{path} is empty (0 bytes).", "Give a file with rows.")
    if suffix in JSON_LINES_SUFFIXES:
        return read_json_lines(path, limit)
    if suffix in JSON_SUFFIXES:
        return read_json(path)
    if suffix in PROSE_SUFFIXES:
        return read_prose(path)
    return read_parquet(path, limit) if suffix == ".parquet" else read_csv(path, limit)


def _read_dataset(src: Any, limit: int | None) -> Raw:
    """Read a ``datasets`` object; of several splits, ``train``."""
    notes: tuple[str, ...] = ()
    if isinstance(src, dict):
        names = list(src)
        name = "train" if "train" in src else names[0] if len(names) == 1 else None
        if name is None:
            raise DataError(
                f"The DatasetDict has the splits {', '.join(names)} and no 'train'.",
                f"Give one: d['{names[0]}'].",
            )
        src = src[name]
        notes = (f"split {name}",)
    description = getattr(getattr(src, "info", None), "dataset_name", None) or "dataset"
    return Raw(str(description), f"datasets object {description}", list(islice(iter(src), limit)), notes)


def _read_hub(name: str, limit: int | None) -> Raw:
    way_on = "Use a local file (.jsonl, .csv, .parquet ...), a DataFrame or a list of dicts."
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            f"'{name}' is no file here; reading it from the hub needs the package datasets.",
            f"pip install datasets. {way_on}",
        )
    import datasets

    from ft_magic.models import hub

    if not hub.has_answer(name):
        raise DataError(f"'{name}' is no file here, and the hub cannot be reached.", way_on)
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # any failure of the hub client means the same to the reader
        raise DataError(
            f"'{name}' is no file here and could not be read from the hub ({shortened(str(error), 120)}).",
            way_on,
        ) from error
    raw = _read_dataset(loaded, limit)
    return Raw(name.rpartition("/")[2], f"hub data set {name}", raw.records, raw.notes)
