"""The report card of some data: what is off in the rows, the worst first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.data.report import languages, near_duplicates
from ft_magic.data.report.checked_numbers import can_tell_phones
from ft_magic.data.report.diversity import Diversity, diversity_findings, diversity_of
from ft_magic.data.report.finding import LEVELS, Finding, finding_line
from ft_magic.data.report.leakage import leakage_finding, leaks
from ft_magic.data.report.lengths import RoleLengths, lengths_of, outlier_findings, truncated
from ft_magic.data.report.preferences import label_findings, pair_findings
from ft_magic.data.report.repeats import different_answers, repeated, repeats_finding
from ft_magic.data.report.row_checks import row_findings
from ft_magic.data.row import Row
from ft_magic.errors import DataError
from ft_magic.progress import Progress, silent

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

_FEW_ROWS = (
    100  # LIMA (arXiv 2305.11206) needed 1,000 rows for a style; under 100 answers are mostly memorised
)


@dataclass(frozen=True)
class Report:
    """What is off in some data, the worst first.

    Attributes:
        name: name of the data.
        rows: number of rows looked at.
        signal: their signal.
        unit: what lengths are counted in, ``tokens`` or ``characters``.
        length_median: median length of a row in that unit.
        length_max: longest row in that unit.
        findings: what is off.
        roles: lengths of what each role says, in the order of reading.
        diversity: how much answers differ; None where there are no words.
        languages: (ISO 639 code, rows) of the rows whose language is sure, the commonest first.
    """

    name: str
    rows: int
    signal: str
    unit: str
    length_median: float
    length_max: int
    findings: tuple[Finding, ...]
    roles: tuple[RoleLengths, ...] = ()
    diversity: Diversity | None = None
    languages: tuple[tuple[str, int], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is neither good nor bad: diversity and languages, one line each."""
        told = [str(self.diversity)] if self.diversity else []
        if self.languages:
            told.append("languages: " + ", ".join(f"{code} {count}" for code, count in self.languages[:5]))
        return tuple(told)

    def to_frame(self) -> Any:
        """Return the findings as a pandas DataFrame."""
        from ft_magic.data.data import frame_of

        names = [field.name for field in fields(Finding) if field.name != "rows"]
        return frame_of({name: getattr(finding, name) for name in names} for finding in self.findings)

    def __str__(self) -> str:
        head = (
            f"{self.name}: {self.rows} {self.signal} rows, median {self.length_median:.10g}, "
            f"longest {self.length_max} {self.unit}"
        )
        lines = [*map(finding_line, self.findings)] or ["  Nothing is off."]
        return "\n".join([head, *(f"  {line}" for line in (*self.roles, *self.notes)), *lines])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(str(self))

    def _repr_html_(self) -> str:
        from ft_magic.data.card import report_card

        return report_card(self)


def make_report(
    data: Data,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    heldout: Data | None = None,
    progress: Progress = silent,
) -> Report:
    """Look at every row and return what is off.

    Args:
        data: rows of one signal.
        tokenizer: counts lengths in tokens instead of characters.
        max_length: tokens after which training cuts a row; needs the tokenizer.
        heldout: data kept for evaluation: rows that are also there are a problem.
        progress: told how far it is, in rows.

    Raises:
        DataError: ``max_length`` without a tokenizer.
    """
    if max_length is not None and tokenizer is None:
        raise DataError(
            f"max_length is {max_length} tokens, and without a tokenizer only characters can be counted.",
            "Give the tokenizer too: data.report(tokenizer, max_length=...).",
        )
    rows = data.rows
    lengths = lengths_of(rows, tokenizer)
    variety = diversity_of(rows)
    mix = languages.mix_of(rows, progress=progress) if languages.can_tell() else languages.Mix(0, {})
    found = [
        _dropped(data), _few(rows), *_likeness(rows, progress), *row_findings(rows, progress),
        leakage_finding(leaks(rows, heldout.rows, progress), len(heldout)) if heldout is not None else None,
        truncated(lengths, max_length) if max_length is not None else None,
        *outlier_findings(lengths), *diversity_findings(variety), languages.language_finding(mix, len(rows)),
        *(_MORE_CHECKS[data.signal](rows) if data.signal in _MORE_CHECKS else ()), _not_looked_at(),
    ]  # fmt: skip
    findings = sorted((f for f in found if f is not None), key=lambda f: LEVELS.index(f.level))
    return Report(
        data.name, len(data), data.signal, lengths.unit,
        statistics.median(lengths.rows) if rows else 0, max(lengths.rows, default=0), tuple(findings),
        lengths.by_role(), variety, tuple(mix.counts),
    )  # fmt: skip


def _likeness(rows: tuple[Row, ...], progress: Progress) -> list[Finding | None]:
    """Return the findings about rows that are equal, nearly equal, or equal but for the answer."""
    again = repeated(rows)
    found = [repeats_finding(again), different_answers(rows)]
    if near_duplicates.can_look():
        near = near_duplicates.near_duplicates(rows, frozenset(again), progress)
        found.append(near_duplicates.near_finding(near))
    return found


def _dropped(data: Data) -> Finding | None:
    if not data.dropped:
        return None
    message = f"{data.dropped.count} source rows could not be used and were kept out: {data.dropped}."
    return Finding("dropped", "warning", data.dropped.count, message, (), "see data.dropped.examples")


def _few(rows: tuple[Row, ...]) -> Finding | None:
    # Few texts may be long documents: rows count only where each is one lesson.
    if len(rows) >= _FEW_ROWS or (rows and "text" in rows[0]):
        return None
    message = f"Only {len(rows)} rows: below {_FEW_ROWS} a model mostly memorises them."
    fix = "collect more, or put a few good rows into the prompt instead of training"
    return Finding("few", "warning", len(rows), message, (), fix)


# what a report leaves out without a package: package -> (what, whether it is there)
_OPTIONAL: tuple[tuple[str, str, Callable[[], bool]], ...] = (
    ("rensa", "near-duplicates", near_duplicates.can_look),
    ("py3langid", "languages", languages.can_tell),
    ("phonenumbers", "telephone numbers", can_tell_phones),
)


def _not_looked_at() -> Finding | None:
    missing = [(package, what) for package, what, there in _OPTIONAL if not there()]
    if not missing:
        return None
    what = ", ".join(f"{what} ({package} is not installed)" for package, what in missing)
    return Finding("not_looked_at", "info", 0, f"Not looked at: {what}.", (), near_duplicates.INSTALL)


# signal -> what only its rows can have
_MORE_CHECKS: Mapping[str, Callable[[tuple[Row, ...]], list[Finding | None]]] = MappingProxyType(
    {"pair": pair_findings, "label": label_findings}
)
