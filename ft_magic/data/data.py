"""Data: normalised rows of one signal, with where they came from and what was done to them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ft_magic.axes import find_signal, signal_of
from ft_magic.data.reading.files import read_json_lines
from ft_magic.data.row import Row, canonical
from ft_magic.errors import DataError
from ft_magic.progress import Progress, silent

if TYPE_CHECKING:
    from ft_magic.data.report.fixes import Repair
    from ft_magic.data.report.quality import Report
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
        repairs: what fixes did, oldest first: indices of rows removed and changed, and why.
    """

    rows: tuple[Row, ...]
    signal: str
    name: str = "rows"
    source: str = ""
    shape: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=Dropped)
    lineage: tuple[str, ...] = ()
    repairs: tuple[Repair, ...] = ()

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
            digest.update(canonical(row).encode(errors="surrogatepass") + b"\n")
        return digest.hexdigest()

    @property
    def provenance(self) -> tuple[Mapping[str, Any] | None, ...]:
        """Where each made row came from (model, request, examples, passage), None for rows that were read."""
        from ft_magic.data.provenance import records_of

        return records_of(self)

    def to(self, signal: str) -> Data:
        """Return the data as rows of another signal, see ``Signal.converts_to``; itself where it is that.

        Raises:
            SpecError: no such signal.
            DataError: rows of this signal cannot become that one, or no row would be left.
        """
        from ft_magic.data.convert import converted

        return self if find_signal(signal).name == self.signal else converted(self, signal)

    def report(
        self,
        tokenizer: Tokenizer | None = None,
        max_length: int | None = None,
        heldout: Data | None = None,
        progress: Progress = silent,
    ) -> Report:
        """Return what is off in these rows.

        Args:
            tokenizer: counts lengths in tokens; without it they are characters.
            max_length: tokens after which training cuts a row; needs the tokenizer.
            heldout: data kept for evaluation: rows that are also there are a problem.
            progress: told how far it is, in rows.

        Raises:
            DataError: ``max_length`` without a tokenizer.
        """
        from ft_magic.data.report.quality import make_report

        asked = (tokenizer, max_length, heldout)
        for known, report in self._reports:
            if all(one is other for one, other in zip(known, asked, strict=True)):
                return report
        made = make_report(self, tokenizer, max_length, heldout, progress)
        self._reports[:] = [(asked, made)]  # rows never change: cards, tables and widgets share a report
        return made

    @cached_property
    def _reports(self) -> list[tuple[tuple[object, ...], Report]]:
        """The last report with what was asked for; none before the first."""
        return []

    @property
    def last_report(self) -> Report | None:
        """The report made last; None where none was made."""
        return self._reports[-1][1] if self._reports else None

    def fix(
        self,
        *names: str,
        heldout: Data | None = None,
        tokenizer: Tokenizer | None = None,
        max_length: int | None = None,
    ) -> Data:
        """Return the data with the named findings of the report repaired; lineage and repairs say what was done.

        Args:
            names: rows are removed by ``duplicates near_duplicates empty refusals placeholders same_answers
                contradictions leakage languages long short truncated``, texts changed by ``pii encoding html``.
            heldout: data kept for evaluation, for ``leakage``.
            tokenizer: counts lengths in tokens, for ``long``, ``short`` and ``truncated``.
            max_length: tokens after which training cuts a row, for ``truncated``.

        Raises:
            DataError: no such fix, something it needs is missing, or nothing would be left.
        """
        from ft_magic.data.report.fixes import Asked, fixed

        data = self
        for name in names:
            data = fixed(data, name, Asked(heldout, tokenizer, max_length))
        return data

    def split(self, eval_fraction: float = 0.1, seed: int = 0, near: bool = False) -> tuple[Data, Data]:
        """Return (train, held-out), the same for the same seed; rows with equal prompts stay together.

        Args:
            eval_fraction: share of rows to hold out, above 0 and below 1; at least one row is.
            seed: decides which.
            near: keep near-duplicates together too, which takes about 0.1 ms a row.

        Raises:
            DataError: fewer than two different rows, or a fraction out of range.
        """
        from ft_magic.data.split import split

        return split(self, eval_fraction, seed, near)

    def to_jsonl(self, path: str | Path) -> Path:
        """Write one row a line; the file appears only when complete. Returns its path.

        Raises:
            DataError: a row holds half a character, which no file can.
        """
        target = Path(path)
        half = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with half.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        except UnicodeEncodeError as error:
            half.unlink()
            raise DataError(
                f"{self.name} holds half a character ({error.object[error.start : error.end]!r}).",
                "data.fix('encoding') repairs it.",
            ) from None
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

    def __str__(self) -> str:
        return "\n".join([repr(self), *([str(self.last_report)] if self.last_report else [])])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(str(self))

    def _repr_html_(self) -> str:
        from ft_magic.data.card import data_card

        return data_card(self)


def frame_of(rows: Any) -> Any:
    """Return a pandas DataFrame of dicts.

    Raises:
        DataError: pandas is not installed.
    """
    if importlib.util.find_spec("pandas") is None:
        raise DataError("to_frame() needs the package pandas, which is not installed.", "pip install pandas")
    import pandas as pd

    return pd.DataFrame(list(rows))
