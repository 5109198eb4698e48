"""Labels of judged answers: which values say good or bad, how many of each, and weights that balance them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ft_magic.data.turns import kind_of

# Words are compared in lower case, with spaces for underscores and hyphens. Words that name classes as often as
# judgements (yes, positive ...) are left out on purpose.
_WORDS: Mapping[str, bool] = MappingProxyType(
    {
        "true": True, "1": True, "+1": True, "1.0": True, "good": True, "up": True, "thumb up": True, "thumbs up": True,
        "thumbsup": True, "👍": True, "desirable": True, "like": True, "liked": True,
        "false": False, "0": False, "0.0": False, "bad": False, "down": False, "thumb down": False,
        "thumbs down": False, "thumbsdown": False, "👎": False, "undesirable": False, "dislike": False,
        "disliked": False,
    }
)  # fmt: skip
SHOWN_LABELS = "true/false, 1/0, +1/-1, good/bad or thumbs up/thumbs down"
# KTO keeps weight * number of good answers between once and 4/3 times that of the bad ones
# (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8); the middle of that range.
_GOOD_TO_BAD = 7 / 6
_LEAST_GOOD_TO_BAD, _MOST_GOOD_TO_BAD = 1.0, 4 / 3


_MINUS_ONE = frozenset(("-1", "-1.0"))
_ZERO = frozenset(("0", "0.0"))


def is_signed(values: Iterable[Any]) -> bool:
    """Return whether a column counts +1 and -1: it holds -1 and no 0, which would stand between them."""
    found = {str(value).strip() for value in values if not isinstance(value, bool)}
    return bool(found & _MINUS_ONE) and not found & _ZERO


def as_label(value: Any, signed: bool = False) -> bool | None:
    """Return whether a cell says good (True) or bad (False); None where it says neither.

    Args:
        value: the cell.
        signed: whether its column counts +1 and -1, see ``is_signed``; else -1 says nothing.
    """
    if signed and str(value).strip() in _MINUS_ONE:
        return False
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if not isinstance(value, str):
        return None
    return _WORDS.get(" ".join(value.lower().replace("_", " ").replace("-", " ").split()))


def judges(values: Iterable[Any]) -> bool:
    """Return whether a column judges answers without doubt: booleans, or both kinds of other labels.

    A column of ones, or of ratings from 0 to 5, says something else.
    """
    values = list(values)
    found: set[bool] = set()
    boolean, signed = True, is_signed(values)
    for value in values:
        if kind_of(value) == "none" or value == "":
            continue
        label = as_label(value, signed)
        if label is None:
            return False
        found.add(label)
        boolean = boolean and str(value).lower() in ("true", "false")
    return len(found) == 2 or (boolean and bool(found))


def label_counts(rows: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Return the number of good and of bad answers among label rows."""
    labels = [bool(row["label"]) for row in rows]
    return sum(labels), len(labels) - sum(labels)


def balancing_weights(good: int, bad: int) -> tuple[float, float]:
    """Return KTO's (desirable_weight, undesirable_weight) for so many good and bad answers.

    Both are 1 where the numbers are balanced enough or one side is empty; else the rarer side is weighted up.
    """
    if not good or not bad or _LEAST_GOOD_TO_BAD <= good / bad <= _MOST_GOOD_TO_BAD:
        return 1.0, 1.0
    if good > bad:
        return 1.0, round(good / bad / _GOOD_TO_BAD, 2)
    return round(_GOOD_TO_BAD * bad / good, 2), 1.0
