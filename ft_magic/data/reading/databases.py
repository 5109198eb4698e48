"""Reads a table or a query of a SQLite file into records; nothing is ever written to the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.data.reading.files import Raw, explained, stem_of
from ft_magic.data.row import shortened
from ft_magic.errors import DataError, nearest

if TYPE_CHECKING:
    import sqlite3


def read_sqlite(
    path: Path, limit: int | None = None, table: str | None = None, query: str | None = None
) -> Raw:
    """Read a table, or what a query answers, at most ``limit`` rows.

    Args:
        path: of the file.
        limit: rows at most.
        table: name of a table or view; by default the only one.
        query: SQL that selects rows, in place of a table.

    Raises:
        DataError: no SQLite file, both or neither clear, no such table, or a query that cannot be answered.
    """
    import sqlite3

    if table is not None and query is not None:
        raise DataError("table= and query= are both given.", "Keep one: a query names its table itself.")
    with explained(path):
        try:
            # mode=ro and query_only: no journal, no file made, no statement that changes anything.
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                connection.execute("pragma query_only = on")
                if query is None:
                    table = _table(connection, path, table)
                    quoted = table.replace('"', '""')
                    query = f'select * from "{quoted}"'  # noqa: S608  a name that is in the file
                    note = f"table '{table}'"
                else:
                    note = f"query: {shortened(query, 200)}"
                records = list(islice(_answer(connection, query), limit))
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise DataError(
                f"{path.name}: SQLite says: {shortened(str(error), 160)}.",
                "Give a SQLite file, and a query that selects from it: query='select a, b from t'.",
            ) from error
    return Raw(stem_of(path), str(path), records, (note,))


def _table(connection: sqlite3.Connection, path: Path, table: str | None) -> str:
    """Return the table asked for, or the only one."""
    found = connection.execute(
        "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite^_%' escape '^'"
    )
    names = [str(name) for (name,) in found]
    if table in names:
        return table
    shown = ", ".join(names)
    if table is not None:
        raise DataError(
            f"{path.name} has no table '{table}'.{nearest(table, names)}", f"Its tables are: {shown}."
        )
    if not names:
        raise DataError(f"{path.name} has no table.", "Give a database that holds one.")
    if len(names) > 1:
        raise DataError(
            f"{path.name} has {len(names)} tables: {shown}.",
            f"Say which: table='{names[0]}', or write a query=.",
        )
    return names[0]


def _answer(connection: sqlite3.Connection, query: str) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description or ()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names:
        raise DataError(f"The query selects nothing: {shortened(query)}", "Write query='select a, b from t'.")
    if twice:
        raise DataError(
            f"The query answers with two columns called '{twice[0]}'.",
            f"Name one: {twice[0]} as other_{twice[0]}.",
        )
    for cells in cursor:
        yield dict(zip(names, cells, strict=True))
