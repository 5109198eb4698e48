"""What the reader of some data asked for beside the source: how much, and which part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ft_magic.errors import DataError
from ft_magic.progress import Progress, silent

# Option -> what it goes with. An option given with anything else is an error.
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "split": "hub ids, datasets objects and folders with splits",
        "revision": "hub ids",
        "subset": "hub ids",
        "sheet": "spreadsheets (.xlsx .xls .ods)",
        "table": "SQLite files (.db .sqlite .sqlite3)",
        "query": "SQLite files (.db .sqlite .sqlite3)",
    }
)


@dataclass(frozen=True)
class Asked:
    """How much to read of a source, and which part.

    Attributes:
        limit: number of source rows to read at most, None for all.
        split: split of a data set.
        revision: branch, tag or commit of a hub data set.
        subset: configuration of a hub data set.
        sheet: sheet of a spreadsheet.
        table: table of a SQLite file.
        query: SQL to ask a SQLite file.
        progress: told how much of a download has arrived.
    """

    limit: int | None = None
    split: str | None = None
    revision: str | None = None
    subset: str | None = None
    sheet: str | None = None
    table: str | None = None
    query: str | None = None
    progress: Progress = silent

    @property
    def parts(self) -> dict[str, str]:
        """The options that were given, by name."""
        return {name: value for name in PARTS if (value := getattr(self, name)) is not None}

    def check(self, source: str, *taken: str) -> None:
        """Refuse options that mean nothing for this source.

        Args:
            source: what is read, for the message.
            taken: names of the options it has a use for.

        Raises:
            DataError: another option was given.
        """
        for name in self.parts:
            if name not in taken:
                raise DataError(
                    f"{name}= is given, but {source} has no use for it.",
                    f"Leave it out; {name}= goes with {PARTS[name]}.",
                )
