"""Which made rows stay: the report card's findings, and whether a row is new."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ft_magic.data import Data
from ft_magic.data.row import Row, prompt_text
from ft_magic.errors import DataError

# Findings of the report card that a single row can have and that no made row may have.
_FAULTS = ("empty", "placeholders", "refusals", "encoding", "html")
# Fixes that take out rows too like an earlier one.
_REPEATS = ("duplicates", "near_duplicates")
# What a model leaves where it was to write something.
_UNFILLED = re.compile(r"\A[\s._\u2026-]*\Z|\[(?:insert|your|name)\b[^\]]*\]", re.IGNORECASE)
_WORDS = re.compile(r"\w+")


@dataclass
class Sieve:
    """Takes rows as they come and says why one does not stay.

    Attributes:
        signal: of the rows.
        seeds: the examples: nothing like them stays.
        kept: rows that stayed so far.
        notes: what could not be looked at.
    """

    signal: str
    seeds: tuple[Row, ...]
    kept: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _prompts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._prompts = {_key(row) for row in self.seeds}

    def take(self, rows: Sequence[Row]) -> list[str]:
        """Return for each row why it is left out, or empty where it stays."""
        reasons = [self._fault(row) for row in rows]
        for place in self._repeats(rows, reasons):
            reasons[place] = "near duplicate of another row"
        self.kept += [row for row, reason in zip(rows, reasons, strict=True) if not reason]
        return reasons

    def _fault(self, row: Row) -> str:
        values = [str(value).strip() for value in row.values()]
        if any(_UNFILLED.search(value) for value in values):
            return "not filled in"
        if len({value.casefold() for value in values}) < len(values):
            return "the answer repeats the request"
        report = Data((row,), self.signal).report()
        named = [finding.name for finding in report.findings if finding.name in _FAULTS]
        if named:
            return named[0].replace("_", " ")
        key = _key(row)
        if key in self._prompts:
            return "same prompt as another row" if self.signal != "text" else "same text as another row"
        self._prompts.add(key)
        return ""

    def _repeats(self, rows: Sequence[Row], reasons: Sequence[str]) -> list[int]:
        """Return the places of rows that the report card's fixes take out beside the rows before them."""
        places = [place for place, reason in enumerate(reasons) if not reason]
        pool = [*self.seeds, *self.kept, *(rows[place] for place in places)]
        if not places or len(pool) < 2:
            return []
        stayed = {id(row) for row in pool}
        for name in _REPEATS:
            try:
                stayed &= {id(row) for row in Data(tuple(pool), self.signal).fix(name).rows}
            except DataError as error:
                self._note(f"{name.replace('_', ' ')} were not looked at: {error.problem}")
        return [place for place in places if id(rows[place]) not in stayed]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _key(row: Row) -> str:
    """Return a prompt's words in small letters: equal for prompts that differ in marks and spaces alone."""
    text = prompt_text(row)
    return " ".join(_WORDS.findall(text.casefold())) or text
