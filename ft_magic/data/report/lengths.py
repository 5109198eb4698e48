"""Lengths: how long what each role says is, what would be cut, and rows far longer or shorter than the rest."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.row import MODEL_FIELDS, Row, well_formed

if TYPE_CHECKING:
    from ft_magic.template.tokenizer import Tokenizer

_FAR_OUT = 3.0  # Tukey 1977: beyond three interquartile ranges; taken on the logarithm of the length
_LEAST_FACTOR = 4.0  # and at least this many times longer or shorter than the median
_LEAST_ROWS = 8  # quartiles of fewer rows say nothing
_ENCODED_AT_ONCE_ROWS = 1_000
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class RoleLengths:
    """How long what one role says is.

    Attributes:
        role: ``system``, ``user``, ``assistant``, ``tool``; or ``prompt``, ``chosen`` ... of plain texts.
        count: number of turns or texts.
        median: median length.
        p90: length that nine in ten do not exceed.
        max: longest.
        bins: how many are of length 0 or 1, 2 or 3, 4 to 7, 8 to 15 and so on, doubling.
    """

    role: str
    count: int
    median: float
    p90: float
    max: int
    bins: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"{self.role}: {self.count} x, median {self.median:.10g}, 90 % up to {self.p90:.10g}, longest {self.max} "
            f"{self.bars}"
        ).rstrip()

    @property
    def bars(self) -> str:
        """The histogram as a line of bars from the shortest bin in use to the longest."""
        used = [index for index, number in enumerate(self.bins) if number]
        top = max(self.bins, default=0)
        return "".join(
            _BARS[math.ceil(number / top * (len(_BARS) - 1))] if number else " "
            for number in self.bins[min(used, default=0) :]
        )

    @property
    def range_of_bins(self) -> tuple[int, int]:
        """Shortest and longest length that the bins in use can hold."""
        used = [index for index, number in enumerate(self.bins) if number] or [0]
        return (0 if used[0] == 0 else 2 ** used[0]), 2 ** (used[-1] + 1) - 1


@dataclass(frozen=True)
class Lengths:
    """Lengths of all rows.

    Attributes:
        unit: ``tokens`` or ``characters``.
        rows: length of each row: the sum of what is said in it.
        roles: role -> length of each of its turns.
    """

    unit: str
    rows: Sequence[int]
    roles: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def by_role(self) -> tuple[RoleLengths, ...]:
        """Return the summary of each role."""
        return tuple(_summary(role, found) for role, found in self.roles.items())


def lengths_of(rows: Sequence[Row], tokenizer: Tokenizer | None) -> Lengths:
    """Return the lengths of rows in tokens of a tokenizer (without the template's own), else in characters."""
    totals: array[int] = array("Q")
    roles: dict[str, array[int]] = {}
    for start in range(0, len(rows), _ENCODED_AT_ONCE_ROWS):
        said = [list(_said(row)) for row in rows[start : start + _ENCODED_AT_ONCE_ROWS]]
        flat = [text for parts in said for _, text in parts]
        sizes = iter(
            [len(ids) for ids in tokenizer.encode_batch([*map(well_formed, flat)])]
            if tokenizer
            else map(len, flat)
        )
        for parts in said:
            total = 0
            for role, _ in parts:
                size = next(sizes)
                roles.setdefault(role, array("Q")).append(size)
                total += size
            totals.append(total)
    return Lengths("tokens" if tokenizer else "characters", totals, roles)


def truncated(lengths: Lengths, max_length: int) -> Finding | None:
    """Return the finding about rows longer than ``max_length`` tokens, the longest first."""
    cut = [index for index, length in enumerate(lengths.rows) if length > max_length]
    cut.sort(key=lambda index: -lengths.rows[index])
    message = (
        f"{{n}} longer than {max_length} tokens before the template adds its own: the rest, the end of the answer "
        "with it, is cut off."
    )
    fix = "raise max_length, or data.fix('truncated', tokenizer=..., max_length=...)"
    return finding_of("truncated", "warning", cut, message, fix)


def outliers(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the indices of rows (far longer, far shorter) than the rest, the farthest first."""
    filled = [math.log(length) for length in lengths if length]
    if len(filled) < _LEAST_ROWS:
        return [], []
    low, median, high = statistics.quantiles(filled, n=4)
    reach = max(_FAR_OUT * (high - low), math.log(_LEAST_FACTOR))
    most, least = math.exp(max(high, median) + reach), math.exp(min(low, median) - reach)
    long = [index for index, length in enumerate(lengths) if length > most]
    short = [index for index, length in enumerate(lengths) if 0 < length < least]
    return sorted(long, key=lambda i: -lengths[i]), sorted(short, key=lambda i: lengths[i])


def outlier_findings(lengths: Lengths) -> list[Finding | None]:
    """Return the findings about rows far longer or shorter than the rest."""
    long, short = outliers(lengths.rows)
    if not long and not short:
        return []
    around = f"(median {statistics.median(n for n in lengths.rows if n):.0f} {lengths.unit}"
    return [
        finding_of(
            "long", "info", long, f"{{n}} far longer than the rest {around}, longest {max(lengths.rows)}).",
            "data.fix('long')",
        ),
        finding_of("short", "info", short, f"{{n}} far shorter than the rest {around}).", "data.fix('short')"),
    ]  # fmt: skip


def _said(row: Row) -> Iterator[tuple[str, str]]:
    """Yield (role, text) of a row: the role of a turn, the field of a plain text."""
    for name in MODEL_FIELDS:
        value = row.get(name)
        if isinstance(value, str):
            yield name, value
        elif value:
            for turn in value:
                # turns that follow a prompt are chosen, rejected or completed; the others are who speaks
                yield (name if name in ("chosen", "rejected") else turn["role"]), turn["content"] or ""


def _summary(role: str, lengths: Sequence[int]) -> RoleLengths:
    ordered = sorted(lengths)
    bins = [0] * max(ordered[-1].bit_length(), 1)
    for length in ordered:
        bins[max(length.bit_length() - 1, 0)] += 1
    p90 = ordered[math.ceil(0.9 * len(ordered)) - 1]
    return RoleLengths(role, len(ordered), statistics.median(ordered), p90, ordered[-1], tuple(bins))
