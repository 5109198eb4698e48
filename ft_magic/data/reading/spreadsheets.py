"""Reads a sheet of an xlsx, xls or ods file into records."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.data.reading.files import Raw, explained, stem_of
from ft_magic.data.reading.tables import column_names
from ft_magic.data.row import shortened
from ft_magic.errors import DataError, nearest

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook


def read_spreadsheet(path: Path, limit: int | None = None, sheet: str | None = None) -> Raw:
    """Read a sheet whose first filled row names the columns, at most ``limit`` rows.

    Args:
        path: of the file.
        limit: rows at most.
        sheet: its name; by default the first one with rows below its header.

    Raises:
        DataError: python-calamine is not installed, the file is no spreadsheet, or there is no such sheet.
    """
    if importlib.util.find_spec("python_calamine") is None:
        raise DataError(
            f"{path.name} needs the package python-calamine, which is not installed.",
            "Install it (pip install python-calamine), or save the sheet as .csv.",
        )
    from python_calamine import CalamineError, CalamineWorkbook

    with explained(path):
        try:
            book = CalamineWorkbook.from_path(str(path))
            names = book.sheet_names
            if sheet is None:
                sheet = next((name for name in names if len(list(islice(_filled(book, name), 2))) == 2), None)
                if sheet is None:
                    return Raw(stem_of(path), str(path), [])
            elif sheet not in names:
                raise DataError(
                    f"{path.name} has no sheet '{sheet}'.{nearest(sheet, names)}",
                    f"Its sheets are: {', '.join(names)}.",
                )
            records = list(islice(_records(book, sheet, path), limit))
        except (CalamineError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path.name} is no readable spreadsheet: {shortened(str(error), 120)}",
                "Save it again, or save the sheet as .csv.",
            ) from error
    return Raw(stem_of(path), str(path), records, (_about(sheet, names),))


def _about(sheet: str, names: list[str]) -> str:
    others = [name for name in names if name != sheet]
    return f"sheet '{sheet}'" + (f"; not read: {', '.join(others)} (sheet=)" if others else "")


def _filled(book: CalamineWorkbook, sheet: str) -> Iterator[list[Any]]:
    """Yield the rows that hold anything."""
    rows = book.get_sheet_by_name(sheet).iter_rows()
    return (row for row in rows if any(cell not in ("", None) for cell in row))


def _records(book: CalamineWorkbook, sheet: str, path: Path) -> Iterator[dict[str, Any]]:
    rows = _filled(book, sheet)
    header = next(rows, [])
    # Columns without a name and without cells are the empty margin of a sheet; ``column_names`` names the others.
    names = column_names([str(_cell(cell) or "") for cell in header], path)
    for row in rows:
        yield {name: _cell(cell) for name, cell in zip(names, row, strict=False)}


def _cell(value: Any) -> Any:
    """Return a cell's value: empty is None, and whole numbers, which spreadsheets hold as floats, are whole."""
    if value == "":
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value
