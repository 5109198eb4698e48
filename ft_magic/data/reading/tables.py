"""Reads csv and tsv files and DataFrames into records."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

from ft_magic.data.reading.archives import open_bytes
from ft_magic.data.reading.files import Raw, explained, read_text, stem_of, suffix_of
from ft_magic.data.row import shortened
from ft_magic.errors import DataError

_DELIMITERS = ",;\t|"
_LONGEST_HEADER_CHARACTERS = 64  # column names are short; a longer first cell is a row of data


def read_csv(path: Path, limit: int | None = None) -> Raw:
    """Read a csv or tsv file with a header line, at most ``limit`` rows.

    Raises:
        DataError: no header, a row with more cells than columns, or no csv at all.
    """
    with explained(path):
        try:
            with _opened(path) as text:
                delimiter = "\t" if suffix_of(path) == ".tsv" else _delimiter_of(text.readline())
            with _opened(path) as text:
                records = _csv_records(text, delimiter, path, limit)
        except UnicodeDecodeError:
            read_text(path)  # says which byte in which line
            raise
    notes = () if delimiter == "," else (f"cells are separated by {delimiter!r}",)
    return Raw(stem_of(path), str(path), records, notes)


def _opened(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def _csv_records(
    text: io.TextIOWrapper, delimiter: str, path: Path, limit: int | None
) -> list[dict[str, Any]]:
    # The standard limit of 131,072 characters a cell is shorter than a document; it is a global, so put back.
    old_limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(text, delimiter=delimiter)
    records: list[dict[str, Any]] = []
    try:
        header = column_names(next(reader, []), path)
        for cells in reader:
            if not cells:
                continue
            if len(cells) > len(header):
                raise DataError(
                    f"{path.name}, line {reader.line_num}: {len(cells)} cells for {len(header)} columns.",
                    f'Put text that contains {delimiter!r} in double quotes ("...").',
                )
            missing = [None] * (len(header) - len(cells))
            records.append(dict(zip(header, [*cells, *missing], strict=True)))
            if limit is not None and len(records) >= limit:
                break
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: {error}.", "Save it again as csv.") from error
    finally:
        csv.field_size_limit(old_limit)
    return records


def _delimiter_of(header: str) -> str:
    """Return the separator most often seen in the first line (spreadsheets write ``;`` in many countries)."""
    best = max(_DELIMITERS, key=header.count)
    return best if header.count(best) else ","


def column_names(cells: list[str], path: Path) -> list[str]:
    """Return the names of a table's first row.

    Raises:
        DataError: it looks like data, or a name occurs twice.
    """
    # DataFrame.to_csv leaves the name of the index column empty.
    names = [cell.strip() or f"column {index}" for index, cell in enumerate(cells)]
    data_like = [n for n in names if len(n) > _LONGEST_HEADER_CHARACTERS or "\n" in n]
    if data_like or (names and all(_is_number(name) for name in names)):
        raise DataError(
            f"{path.name}: the first line looks like data, not column names ({shortened(names[0])}).",
            "Add a first line with column names, for example: prompt,completion",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path.name}: the column name '{shortened(twice[0])}' occurs twice.", "Name each column once."
        )
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_frame(frame: Any, limit: int | None = None) -> Raw:
    """Read a pandas DataFrame. Whole numbers that pandas holds as floats beside missing ones stay whole."""
    part = frame if limit is None else frame.head(limit)
    records = [{str(key): value for key, value in row.items()} for row in part.to_dict("records")]
    for column in part.columns:
        values = part[column]
        if getattr(values.dtype, "kind", "") == "f" and values.isna().any():
            _restore_integers(records, str(column))
    return Raw("dataframe", f"DataFrame of {len(frame)} rows", records)


def _restore_integers(records: list[dict[str, Any]], column: str) -> None:
    """Undo pandas' change of a whole-number column with gaps to floats (3 became 3.0)."""
    present = [record[column] for record in records if record[column] == record[column]]  # NaN != NaN
    if all(float(value).is_integer() for value in present):
        for record in records:
            if record[column] == record[column]:
                record[column] = int(record[column])
