"""What kind of answers the rows hold, and how alike they are in form. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

_MOST = 0.5  # a kind is what more than half of the answers are
# Labels: few, short, and each seen about five times; rarer ones would be answers of their own.
_MOST_LABELS, _ROWS_A_LABEL, _LABEL_WORDS = 20, 5, 4
_SHORT_WORDS = 6  # up to so many words an answer is right or wrong as a whole
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Answers:
    """The answers of all rows.

    Attributes:
        kind: ``json``, ``label``, ``number``, ``short`` or ``text``.
        same_shape: share that has the commonest form (JSON keys, a label of the set, a number); None for free text.
        labels: the labels, in small letters; empty for other kinds.
        words: median length, in words.
        spread: words at the 90th over words at the 10th percentile; 1 where all are equally long.
    """

    kind: str
    same_shape: float | None
    labels: frozenset[str]
    words: float
    spread: float


def describe(answers: Sequence[str]) -> Answers:
    """Return what kind of answers these are."""
    lengths = [max(1, len(answer.split())) for answer in answers]
    tenths = quantiles(lengths, n=10) if len(lengths) > 1 else [1.0, 1.0]
    size = (float(median(lengths)), tenths[-1] / max(1.0, tenths[0]))
    shapes = Counter(_json_shape(answer) for answer in answers)
    objects = len(answers) - shapes.pop("", 0)
    if objects > _MOST * len(answers):
        return Answers("json", max(shapes.values()) / len(answers), frozenset(), *size)
    numbers = sum(_NUMBER.fullmatch(answer.strip()) is not None for answer in answers)
    if numbers > _MOST * len(answers):
        return Answers("number", numbers / len(answers), frozenset(), *size)
    counts = Counter(plain(answer) for answer in answers)
    labels = frozenset(label for label, count in counts.items() if count > 1 and label)
    labelled = sum(counts[label] for label in labels)
    few = 1 < len(labels) <= min(_MOST_LABELS, len(answers) / _ROWS_A_LABEL)
    if few and labelled > _MOST * len(answers) and size[0] <= _LABEL_WORDS:
        return Answers("label", labelled / len(answers), labels, *size)
    return Answers("short" if size[0] <= _SHORT_WORDS else "text", None, frozenset(), *size)


def plain(text: str) -> str:
    """Return a text for comparison: small letters, single spaces, no punctuation around it."""
    return " ".join(text.casefold().split()).strip(" .!?,;:'\"`*")


def strict_json(text: str) -> Any:
    """Return the object or list that a whole text is as JSON; None where it is none or more."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _json_shape(answer: str) -> str:
    found = strict_json(answer)
    if found is None:
        return ""
    return "list" if isinstance(found, list) else "object with " + ", ".join(sorted(found))
