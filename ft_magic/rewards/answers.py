"""Built-in rewards that compare an answer with what is wanted. Each maker checks its parameters once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ft_magic.errors import SpecError

# Scores one answer: (answer, the row's columns) -> score.
Score = Callable[[str, Mapping[str, Any]], float]

# A number as people write it: 18, -3.5, 1,234.00, $20, .5. A minus after a digit, letter or bracket subtracts.
_NUMBER = (
    r"(?:(?<![\w)\]])[-\u2212])?(?:\$[-\u2212]?)?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
)
_NUMBERS = re.compile(_NUMBER)
_MARKED = re.compile(rf"####\s*({_NUMBER})")
_ENDS = " \t\r\n.,;:!?\"'`*()[]"


def final_number(text: str) -> Decimal | None:
    """Return the number a text ends in: the one after the last ``####`` (GSM8K), else the last one; or None."""
    found = _MARKED.findall(text) or _NUMBERS.findall(text)
    return _decimal(found[-1]) if found else None


def _decimal(word: str) -> Decimal:
    bare = word.replace("\u2212", "-").replace(",", "").replace("$", "")
    sign = -1 if bare.startswith("-") else 1
    return sign * Decimal(bare.lstrip("-"))


def final_text(text: str) -> str:
    """Return the words a text ends in, for answers that are no numbers: after ``####``, else the last line."""
    lines = [line for line in text.rpartition("####")[2].strip().splitlines() if line.strip(_ENDS)]
    return " ".join(lines[-1].strip(_ENDS).casefold().split()) if lines else ""


def exact_answer(column: str = "answer") -> Score:
    """Return 1 where the final answer equals the column's, else 0."""

    def score(completion: str, row: Mapping[str, Any]) -> float:
        wanted = str(row[column])
        number = final_number(wanted)
        if number is not None:
            return float(final_number(completion) == number)
        return float(bool(final_text(wanted)) and final_text(completion) == final_text(wanted))

    return score


def regex(pattern: str, ignore_case: bool = False) -> Score:
    """Return 1 where the pattern is found in the answer, else 0; ``^`` and ``$`` are its beginning and end."""
    try:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise SpecError(
            f"reward 'regex': the pattern {pattern!r} is no regular expression: {error}.",
            r'In YAML write it in single quotes: pattern: "^\\d+$" or pattern: ^\d+$.',
        ) from error
    return lambda completion, _row: float(compiled.search(completion) is not None)


def contains(text: Any = None, column: str | None = None, ignore_case: bool = True) -> Score:
    """Return the share of wanted texts that the answer contains, 0 to 1."""
    if (text is None) == (column is None):
        raise SpecError(
            "reward 'contains' takes either text or column.",
            "Write {reward: contains, text: Paris} or {reward: contains, column: answer}.",
        )

    def folded(value: Any) -> str:
        return str(value).casefold() if ignore_case else str(value)

    def score(completion: str, row: Mapping[str, Any]) -> float:
        wanted = row[column] if column is not None else text
        parts = wanted if isinstance(wanted, list | tuple) else [wanted]
        said = folded(completion)
        return sum(folded(part) in said for part in parts) / len(parts) if parts else 0.0

    return score
