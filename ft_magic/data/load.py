"""load_data: anything people have -> rows of one signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ft_magic.axes import find_signal
from ft_magic.data.data import Data, Dropped, DroppedRow
from ft_magic.data.reading.asked import Asked
from ft_magic.data.reading.files import Raw
from ft_magic.data.reading.sources import read_source
from ft_magic.data.row import ANSWER, Row, shortened
from ft_magic.data.shaping.cells import UnusableError
from ft_magic.data.shaping.detect import Detected, detect
from ft_magic.data.shaping.normalise import NO_ANSWER, Reader, own_name
from ft_magic.data.shaping.trees import as_trees
from ft_magic.data.turns import is_chat
from ft_magic.errors import DataError
from ft_magic.progress import Progress, silent

_SHOWN_DROPS = 5


def load_data(  # noqa: PLR0913  one keyword for each thing that can be asked of a source
    src: Any,
    *,
    signal: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str | None = None,
    revision: str | None = None,
    subset: str | None = None,
    sheet: str | None = None,
    table: str | None = None,
    query: str | None = None,
    progress: Progress = silent,
) -> Data:
    """Read training data and bring it to rows of one signal.

    Args:
        src: path or web address of a json, jsonl, ndjson, csv, tsv, txt or md file (also ``.gz`` or ``.zst``), of a
            parquet, arrow, feather, xlsx, xls, ods or SQLite file; a folder of txt and md files, or of the shards
            of one data set; a DataFrame; a list of dicts, of strings or of conversations; a ``datasets`` object;
            a hub id ``org/name``; or ``Data``, returned as it is.
        signal: name of a signal (``ft_magic.axes.SIGNALS``), where the guess should be overruled; data that
            carries another is converted where it can be, see ``Data.to``.
        columns: role -> column, for example ``{"prompt": "question", "completion": "reply"}``.
        limit: number of source rows to read at most; the rest of the source is not read where its kind allows it.
        split: split of a hub data set, a ``datasets`` object or a folder; by default ``train``.
        revision: branch, tag or commit of a hub data set.
        subset: configuration of a hub data set (``datasets`` calls it name).
        sheet: sheet of a spreadsheet; by default the first one with rows.
        table: table of a SQLite file; by default its only one.
        query: SQL that selects rows of a SQLite file.
        progress: told how much of a download has arrived.

    Raises:
        DataError: it cannot be read, has no known shape, no row of it can be used, or an option does not fit it.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; it is a number of rows.", "Write limit=100, or leave it out.")
    asked = Asked(limit, split, revision, subset, sheet, table, query, progress)
    if isinstance(src, Data):
        asked.check("data that is already read")
        return _given_data(src, signal, columns, limit)
    raw = read_source(src, asked)
    if limit is not None:
        del raw.records[limit:]  # of kinds that are read whole
    if not raw.records:
        raise DataError(f"{raw.source} holds no rows.", "Give data with at least one row.")
    read = f"{len(raw.records)} rows read from {raw.source}"
    for index, record in enumerate(raw.records):
        if not isinstance(record, dict):
            raw.records[index] = _as_record(record)
    trees = as_trees(raw.records) if columns is None and signal != "text" else None
    if trees is not None:
        raw = replace(raw, records=trees[0], notes=(*raw.notes, *trees[1]))
    detected = detect(raw.records, raw.source, signal, columns)
    data = _normalised(raw, detected, read)
    return data if signal is None else data.to(signal)


@dataclass
class _Kept:
    """What becomes of the records: rows, and why others did not become any."""

    rows: list[Row] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[DroppedRow] = field(default_factory=list)

    @property
    def dropped(self) -> Dropped:
        return Dropped(dict(self.reasons), tuple(self.examples))


def _kept(records: list[Any], reader: Reader) -> _Kept:
    """Normalise all records; each is let go at once, so that only one copy of the data stays in memory."""
    kept = _Kept()
    for index, record in enumerate(records):
        records[index] = None
        try:
            kept.rows += reader.rows(record)
        except UnusableError as error:
            kept.reasons[str(error)] += 1
            if len(kept.examples) < _SHOWN_DROPS:
                kept.examples.append(DroppedRow(index, str(error), shortened(record)))
    return kept


def _normalised(raw: Raw, detected: Detected, read: str) -> Data:
    reader = Reader(detected)
    first, columns = shortened(raw.records[0], 200), dict(detected.columns)
    kept = _kept(raw.records, reader)
    rows, dropped = kept.rows, kept.dropped
    if not rows:
        raise DataError(
            f"{raw.source}: none of {len(raw.records)} rows can be used ({dropped}).",
            f"Columns were read as {columns}; the first row is {first}.\n"
            'Say otherwise with columns={"prompt": "...", "completion": "..."}'
            + (", or signal='prompt' where these are prompts." if NO_ANSWER in dropped.reasons else "."),
        )
    signal, shape = detected.shape.signal, detected.shape.name
    if signal == "prompt":
        rows = _with_equal_columns(rows)
    lineage = (
        read,
        *raw.notes,
        *_about(detected, rows),
        *(f"{n} x {what}" for what, n in reader.changes.items()),
    )
    if dropped:
        lineage = (*lineage, f"{dropped.count} rows kept out: {dropped}")
    return Data(tuple(rows), signal, raw.name, raw.source, shape, columns, dropped, lineage)


def _about(detected: Detected, rows: list[Row]) -> list[str]:
    """Say how the columns were understood."""
    columns = detected.columns
    notes = [
        f"shape {detected.shape.name}: " + ", ".join(f"{role} = {name}" for role, name in columns.items())
    ]
    if "input" in columns:
        notes.append(
            f"'{columns['input']}' follows '{columns['prompt']}' after an empty line where it is filled"
        )
    return [*notes, *_about_unused(detected, rows), *detected.notes]


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
