"""Data: normalised rows of one signal, with where they came from and what was done to them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

from ft_magic.axes import find_signal, signal_of
from ft_magic.data.files import read_json_lines
from ft_magic.data.row import Row, answer_text, canonical, prompt_text
from ft_magic.errors import DataError, nearest

if TYPE_CHECKING:
    from ft_magic.data.quality import Report
    from ft_magic.template.tokenizer import Tokenizer


@dataclass(frozen=True)
class DroppedRow:
    """A source row that could not be used.

    Attributes:
        row: its place in the source, counted from 0.
        why: the reason.
        preview: its beginning.
    """

    row: int
    why: str
    preview: str


@dataclass(frozen=True)
class Dropped:
    """Source rows kept out of ``Data.rows``.

    Attributes:
        reasons: reason -> number of rows.
        examples: the first of them.
    """

    reasons: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[DroppedRow, ...] = ()

    @property
    def count(self) -> int:
        """Number of rows kept out."""
        return sum(self.reasons.values())

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        return ", ".join(f"{count} x {why}" for why, count in self.reasons.items())


@dataclass(frozen=True, repr=False)
class Data:
    """Normalised rows of one signal.

    Attributes:
        rows: the rows; see ``ft_magic.axes.SIGNALS`` for their fields.
        signal: name of the signal they carry.
        name: short name of the source.
        source: where it was read from.
        shape: name of the shape found.
        columns: role -> source column.
        dropped: source rows that could not be used.
        lineage: what happened to the rows, oldest first.
    """

    rows: tuple[Row, ...]
    signal: str
    name: str = "rows"
    source: str = ""
    shape: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=Dropped)
    lineage: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Data: ...
    def __getitem__(self, index: int | slice) -> Row | Data:
        if isinstance(index, slice):
            kept = range(len(self.rows))[index]
            step = "" if kept.step == 1 else f":{kept.step}"
            return self.part(list(kept), f"rows {kept.start}:{kept.stop}{step} of {len(self.rows)}")
        return self.rows[index]

    def part(self, indices: list[int], why: str) -> Data:
        """Return the rows at these indices, in this order; ``why`` joins the lineage."""
        rows = tuple(self.rows[index] for index in indices)
        return replace(self, rows=rows, dropped=Dropped(), lineage=(*self.lineage, why))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the rows in order: equal data gives equal digests."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(canonical(row).encode() + b"\n")
        return digest.hexdigest()

    def to(self, signal: str) -> Data:
        """Return the data as rows of another signal, see ``Signal.converts_to``; itself where it is that.

        Raises:
            SpecError: no such signal.
            DataError: rows of this signal cannot become that one, or no row would be left.
        """
        from ft_magic.data.convert import converted

        return self if find_signal(signal).name == self.signal else converted(self, signal)

    def report(self, tokenizer: Tokenizer | None = None) -> Report:
        """Return what is off in these rows; lengths are tokens with a tokenizer, characters without."""
        from ft_magic.data.quality import make_report

        return make_report(self, tokenizer)

    def fix(self, *names: str) -> Data:
        """Return the data with the named findings repaired: ``duplicates``, ``empty``; see the lineage.

        Raises:
            DataError: no such fix, or nothing would be left.
        """
        data = self
        for name in names:
            if name not in FIXES:
                raise DataError(
                    f"There is no fix '{name}'.{nearest(name, FIXES)}", f"Fixes are: {', '.join(FIXES)}."
                )
            kept = FIXES[name](data.rows)
            if not kept:
                raise DataError(
                    f"The fix '{name}' would leave no row of {data.name}.", "Look at the rows first."
                )
            removed = len(data) - len(kept)
            fixed = data.part(kept, f"fix {name}: {removed} rows removed")
            data = replace(fixed, dropped=self.dropped)
        return data

    def split(self, eval_fraction: float = 0.1, seed: int = 0) -> tuple[Data, Data]:
        """Return (train, held-out), the same for the same seed; rows with equal prompts stay together.

        Args:
            eval_fraction: share of rows to hold out, above 0 and below 1; at least one row is.
            seed: decides which.

        Raises:
            DataError: fewer than two different rows, or a fraction out of range.
        """
        if not 0 < eval_fraction < 1:
            raise DataError(
                f"eval_fraction is {eval_fraction}, it must lie between 0 and 1.", "Write 0.1 for a tenth."
            )
        groups, unit = self._groups()
        random.Random(seed).shuffle(groups)  # noqa: S311  reproducible choice, not a secret
        target = min(max(1, round(len(self) * eval_fraction)), len(self) - 1)
        held: set[int] = set()
        for group in groups:
            if len(held) + len(group) <= target:
                held.update(group)
        if not held:
            smallest = min(len(group) for group in groups)
            held.update(next(group for group in groups if len(group) == smallest))
        note = f"split {eval_fraction:g}, seed {seed}, equal {unit} together"
        train = [index for index in range(len(self)) if index not in held]
        return self.part(train, f"train side of {note}"), self.part(sorted(held), f"held-out side of {note}")

    def _groups(self) -> tuple[list[list[int]], str]:
        """Return the indices of rows that must stay on one side, and what they have in common."""
        keys: tuple[tuple[Callable[[Row], str], str], ...] = ((prompt_text, "prompts"), (canonical, "rows"))
        for key, unit in keys:
            groups: dict[str, list[int]] = {}
            for index, row in enumerate(self.rows):
                groups.setdefault(key(row), []).append(index)
            if len(groups) > 1:
                return list(groups.values()), unit
        raise DataError(
            f"{self.name} has {len(self)} rows and fewer than two different ones: nothing can be held out.",
            "Give more rows, or data of its own to evaluate on.",
        )

    def to_jsonl(self, path: str | Path) -> Path:
        """Write one row a line; the file appears only when complete. Returns its path."""
        target = Path(path)
        half = target.with_name(f".{target.name}.{os.getpid()}.part")
        with half.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        half.replace(target)
        return target

    @staticmethod
    def from_jsonl(path: str | Path) -> Data:
        """Read rows written by ``to_jsonl``.

        Raises:
            DataError: the file holds no normalised rows of one signal.
        """
        raw = read_json_lines(Path(path))
        signals = [signal_of(row) if isinstance(row, dict) else None for row in raw.records]
        names = {signal.name if signal else None for signal in signals}
        if len(names) != 1 or None in names:
            raise DataError(
                f"{path} does not hold normalised rows of one signal.",
                "Read it with load_data(path) instead.",
            )
        name = str(names.pop())
        return Data(
            tuple(raw.records), name, raw.name, raw.source, "normalised", lineage=(f"read from {path}",)
        )

    def to_frame(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Raises:
            DataError: pandas is not installed.
        """
        return frame_of(self.rows)

    def __repr__(self) -> str:
        dropped = f", {self.dropped.count} source rows dropped" if self.dropped else ""
        return f"Data({self.name}: {len(self)} {self.signal} rows, shape {self.shape or 'given'}{dropped})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(repr(self))

    def _repr_html_(self) -> str:
        from ft_magic.data.card import data_card

        return data_card(self)


def _without_duplicates(rows: tuple[Row, ...]) -> list[int]:
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(canonical(row), index)
    return list(first.values())


def is_empty(row: Row) -> bool:
    """Return whether a row lacks its text, its prompt or an answer; prompts alone need none."""
    answers = [answer_text(row, key) for key in ("completion", "chosen", "rejected") if key in row]
    if "messages" in row:
        answers = [answer_text(row)]
    return not prompt_text(row).strip() or not all(answer.strip() for answer in answers)


def _without_empty(rows: tuple[Row, ...]) -> list[int]:
    return [index for index, row in enumerate(rows) if not is_empty(row)]


# name -> indices of the rows that stay
FIXES: Mapping[str, Callable[[tuple[Row, ...]], list[int]]] = MappingProxyType(
    {"duplicates": _without_duplicates, "empty": _without_empty}
)


def frame_of(rows: Any) -> Any:
    """Return a pandas DataFrame of dicts.

    Raises:
        DataError: pandas is not installed.
    """
    if importlib.util.find_spec("pandas") is None:
        raise DataError("to_frame() needs the package pandas, which is not installed.", "pip install pandas")
    import pandas as pd

    return pd.DataFrame(list(rows))
