"""What the first rows of some data show about its columns, beside their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ft_magic.data.labels import judges
from ft_magic.data.shaping.ranked import ORDERED, is_ranked
from ft_magic.data.shaping.shapes import KNOWN_NAMES, LABELS, RANKS, SCORES
from ft_magic.data.shaping.tools import tools_of
from ft_magic.data.shaping.transcripts import holds_transcripts
from ft_magic.data.shaping.trees import Node
from ft_magic.data.turns import as_list, kind_of

_SAMPLE_ROWS = 200  # columns and kinds of values are read from this many first rows
# Columns that name a row: text, but never a question or an answer.
_ROW_NAMES = frozenset(("id", "_id", "uid", "uuid", "guid", "key", "index", "idx", "column 0"))
# Lists of numbers that may rank a list of answers beside them.
_RANKED_BESIDE = frozenset((*SCORES, *RANKS))


@dataclass(frozen=True)
class Evidence:
    """Columns and what they hold.

    Attributes:
        samples: column -> first value that is not missing, in order of appearance.
        labels: columns that judge answers.
        transcripts: columns of conversations written as text.
        texts: columns of text alone.
        ranked: whether lists of answers may be taken as ranked, whatever they are called.
    """

    samples: Mapping[str, Any]
    labels: frozenset[str] = frozenset()
    transcripts: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()
    ranked: bool = False

    def holds(self, kind: str | None, column: str) -> bool:
        """Return whether a column holds what a role needs; None means anything."""
        value = self.samples[column]
        if kind in ("label", "transcript"):
            return column in (self.labels if kind == "label" else self.transcripts)
        if kind == "answers":
            beside = self.ranked or column.lower().strip() in ORDERED
            return kind_of(value) == "list" and len(as_list(value) or ()) > 1 and (beside or is_ranked(value))
        if kind is None:
            return True
        return _TELLS[kind](value) if kind in _TELLS else kind_of(value) == kind

    @property
    def guessed(self) -> tuple[str, str] | None:
        """The two columns of text where there are exactly two and no column is known by its name."""
        if any(name.lower().strip() in KNOWN_NAMES for name in self.samples):
            return None
        texts = [name for name in self.texts if name.lower().strip() not in _ROW_NAMES]
        return (texts[0], texts[1]) if len(texts) == 2 else None


def _is_segmented(value: Any) -> bool:
    items = as_list(value) or [None]
    return all(isinstance(item, Mapping) and {"label", "text"} <= set(item) for item in items)


# kind of value -> whether a first value is one
_TELLS: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "segments": _is_segmented,
        "tools": lambda value: tools_of(value) is not None,
        "tree": lambda value: isinstance(value, Node),
    }
)


def evidence_of(records: list[Any], signal: str | None, pinned: Iterable[str] = ()) -> Evidence:
    """Look at the first rows, and at all values of columns that may be labels.

    Args:
        records: the rows.
        signal: the signal asked for, None where it is guessed.
        pinned: columns that the user named as lists of answers or their ranks.
    """
    samples = samples_of(records)
    first = records[:_SAMPLE_ROWS]
    transcripts = {name for name in samples if holds_transcripts(column_of(first, name))}
    beside = any(
        name.lower().strip() in _RANKED_BESIDE for name in samples if as_list(samples[name]) is not None
    )
    return Evidence(
        samples,
        _label_columns(records, samples, signal),
        frozenset(transcripts),
        tuple(name for name in samples if _is_text(column_of(first, name))),
        ranked=signal == "pair" or beside or bool(tuple(pinned)),
    )


def column_of(records: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield a column's values, None where a row lacks it."""
    return (record.get(name) for record in records if isinstance(record, Mapping))


def samples_of(records: list[Any]) -> dict[str, Any]:
    """Return each column with its first value that is not missing, in order of appearance."""
    samples: dict[str, Any] = {}
    for record in records[:_SAMPLE_ROWS]:
        for key, value in record.items() if isinstance(record, Mapping) else ():
            if kind_of(samples.get(str(key))) == "none":
                samples[str(key)] = value
    return samples


def _is_text(values: Iterable[Any]) -> bool:
    filled = [value for value in values if kind_of(value) != "none"]
    return bool(filled) and all(isinstance(value, str) for value in filled)


def _label_columns(records: list[Any], samples: Mapping[str, Any], signal: str | None) -> frozenset[str]:
    """Return the columns that judge answers, by name and values; by name alone where labels are asked for."""
    named = [name for name in samples if name.lower().strip() in LABELS]
    judging = frozenset(name for name in named if judges(column_of(records, name)))
    return judging or (frozenset(named) if signal == "label" else judging)
