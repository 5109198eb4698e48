"""Fixes: what ``data.fix`` can do, one line of a table each, and the record of what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ft_magic.data.report import languages
from ft_magic.data.report.leakage import leaks
from ft_magic.data.report.lengths import lengths_of, outliers
from ft_magic.data.report.near_duplicates import ALIKE, near_duplicates
from ft_magic.data.report.personal import masked
from ft_magic.data.report.refusals import refuses
from ft_magic.data.report.remnants import has_blank, has_html, is_damaged, repaired, without_html
from ft_magic.data.report.repeats import contradicted, repeated
from ft_magic.data.report.row_checks import is_empty
from ft_magic.data.row import MODEL_FIELDS, Row, answer_text, contents
from ft_magic.errors import DataError, nearest

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

_KEPT_REASONS = 20


@dataclass(frozen=True)
class Repair:
    """What one fix did.

    Attributes:
        fix: its name.
        removed: indices, in the data before it, of the rows it removed.
        changed: indices, in the data before it, of the rows whose text it changed.
        reasons: (index, why) of the first of them.
    """

    fix: str
    removed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    reasons: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Asked:
    """What some fixes need to be told.

    Attributes:
        heldout: data kept for evaluation.
        tokenizer: counts lengths in tokens instead of characters.
        max_length: tokens after which training cuts a row.
    """

    heldout: Data | None = None
    tokenizer: Tokenizer | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Removal:
    """A fix that takes rows out.

    Attributes:
        rows: index -> why, of the rows to remove.
        note: what stands behind the count in the lineage.
    """

    rows: Callable[[Data, Asked], Mapping[int, str]]
    note: str = ""


@dataclass(frozen=True)
class Change:
    """A fix that changes what is said; tool calls and other columns stay.

    Attributes:
        holds: whether a row needs it, given all its texts joined by newlines.
        text: the text as it should be.
        why: what is recorded.
    """

    holds: Callable[[str], bool]
    text: Callable[[str], str]
    why: str


def fixed(data: Data, name: str, asked: Asked) -> Data:
    """Return the data with one finding repaired, and the record of it.

    Raises:
        DataError: no such fix, something it needs is missing, or nothing would be left.
    """
    fix = FIXES.get(name)
    if fix is None:
        raise DataError(f"There is no fix '{name}'.{nearest(name, FIXES)}", f"Fixes are: {', '.join(FIXES)}.")
    return _without(data, name, fix, asked) if isinstance(fix, Removal) else _changed(data, name, fix)


def _without(data: Data, name: str, fix: Removal, asked: Asked) -> Data:
    gone = fix.rows(data, asked)
    if len(gone) == len(data):
        raise DataError(f"The fix '{name}' would leave no row of {data.name}.", "Look at the rows first.")
    kept = [index for index in range(len(data)) if index not in gone]
    part = data.part(kept, f"fix {name}: {len(gone)} rows removed{fix.note}")
    removed = tuple(sorted(gone))
    reasons = tuple((index, gone[index]) for index in removed[:_KEPT_REASONS])
    repair = Repair(name, removed=removed, reasons=reasons)
    return replace(part, dropped=data.dropped, repairs=(*data.repairs, repair))


def _changed(data: Data, name: str, fix: Change) -> Data:
    rows, changed, left = list(data.rows), [], 0
    for index, row in enumerate(data.rows):
        if fix.holds("\n".join(contents(row))):
            made = _with_texts(row, fix.text)
            if made != row:
                rows[index] = made
                changed.append(index)
            left += fix.holds("\n".join(contents(made)))
    note = f"fix {name}: {len(changed)} rows changed" + (f", {left} still have it" if left else "")
    reasons = tuple((index, fix.why) for index in changed[:_KEPT_REASONS])
    repair = Repair(name, changed=tuple(changed), reasons=reasons)
    return replace(data, rows=tuple(rows), lineage=(*data.lineage, note), repairs=(*data.repairs, repair))


def _with_texts(row: Row, change: Callable[[str], str]) -> Row:
    made = dict(row)
    for name in MODEL_FIELDS:
        value = row.get(name)
        if isinstance(value, str):
            made[name] = change(value)
        elif value:
            made[name] = [
                {**turn, "content": change(turn["content"])} if turn["content"] else turn for turn in value
            ]
    return made


def _where(holds: Callable[[Row], bool], why: str) -> Removal:
    """Return the removal of rows for which something holds."""
    return Removal(lambda data, _: {index: why for index, row in enumerate(data.rows) if holds(row)})


def _near(data: Data, _asked: Asked) -> dict[int, str]:
    found = near_duplicates(data.rows, frozenset(repeated(data.rows)))
    return {match.row: f"resembles row {match.like} by {100 * match.similarity:.0f} %" for match in found}


def _leaked(data: Data, asked: Asked) -> dict[int, str]:
    if asked.heldout is None:
        raise DataError(
            "The fix 'leakage' needs the held-out data to compare with.", "data.fix('leakage', heldout=other)"
        )
    words = {"equal": "equal to", "prompt": "has the prompt of", "near": "nearly equal to"}
    found = leaks(data.rows, asked.heldout.rows)
    return {leak.row: f"{words[leak.how]} held-out row {leak.like}" for leak in found}


def _foreign(data: Data, _asked: Asked) -> dict[int, str]:
    mix = languages.mix_of(data.rows, every=True)
    if not mix.main and mix.told:
        raise DataError(
            f"{data.name} has no main language: {', '.join(f'{code} {count}' for code, count in mix.counts[:5])}.",
            "Choose the rows you want yourself.",
        )
    return {index: f"language {mix.told[index]}, not {mix.main}" for index in mix.foreign()}


def _outlying(side: int) -> Removal:
    def rows(data: Data, asked: Asked) -> dict[int, str]:
        lengths = lengths_of(data.rows, asked.tokenizer)
        return {index: f"{lengths.rows[index]} {lengths.unit}" for index in outliers(lengths.rows)[side]}

    return Removal(rows)


def _cut(data: Data, asked: Asked) -> dict[int, str]:
    if asked.tokenizer is None or asked.max_length is None:
        raise DataError(
            "The fix 'truncated' needs a tokenizer and max_length.",
            "data.fix('truncated', tokenizer=tokenizer, max_length=2048)",
        )
    lengths = lengths_of(data.rows, asked.tokenizer).rows
    return {index: f"{n} tokens" for index, n in enumerate(lengths) if n > asked.max_length}


def _says_the_same(row: Row) -> bool:
    return "chosen" in row and answer_text(row, "chosen") == answer_text(row, "rejected")


FIXES: Mapping[str, Removal | Change] = MappingProxyType(
    {
        "duplicates": Removal(lambda data, _: dict.fromkeys(repeated(data.rows), "equal to an earlier row")),
        "near_duplicates": Removal(_near, f" (similarity {ALIKE:g} or more, the earlier row stays)"),
        "empty": _where(is_empty, "no prompt or no answer"),
        "refusals": _where(refuses, "an answer refuses"),
        "placeholders": _where(lambda row: has_blank("\n".join(contents(row))), "an unfilled placeholder"),
        "same_answers": _where(_says_the_same, "chosen and rejected are equal"),
        "contradictions": Removal(lambda data, _: dict.fromkeys(contradicted(data.rows), "contradicts another row")),
        "leakage": Removal(_leaked),
        "languages": Removal(_foreign),
        "long": _outlying(0),
        "short": _outlying(1),
        "truncated": Removal(_cut),
        "pii": Change(lambda text: masked(text) != text, masked, "personal data masked"),
        "encoding": Change(is_damaged, repaired, "characters repaired"),
        "html": Change(has_html, without_html, "tags and entities removed"),
    }
)  # fmt: skip
