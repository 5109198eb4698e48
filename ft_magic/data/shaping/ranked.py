"""Several answers to one prompt, ranked or scored: the best and the worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_magic.data.turns import as_list

_ANSWER_FIELDS = ("response", "answer", "completion", "output", "text", "content", "generation")
_RANK_FIELDS = ("rank", "ranking")
_SCORE_FIELDS = ("overall_score", "score", "rating", "reward", "fine-grained_score", "quality")
# A column of this name says itself that its answers are ordered, best first.
ORDERED = frozenset(("ranked_responses", "ranked_answers", "ranked_completions", "ranked_outputs", "ranking"))


@dataclass(frozen=True)
class Best:
    """The two answers that differ most in rank.

    Attributes:
        best: the best answer, as its cell holds it.
        worst: the worst one.
        between: number of answers left out.
        by: what ranked them.
    """

    best: Any
    worst: Any
    between: int
    by: str


def is_ranked(value: Any) -> bool:
    """Return whether the answers of a cell carry ranks or scores of their own."""
    items = as_list(value) or []
    return any(isinstance(item, Mapping) and _number(item, (*_RANK_FIELDS, *_SCORE_FIELDS)) for item in items)


def best_and_worst(answers: Sequence[Any], ranks: Any = None, scores: Any = None) -> Best | str:
    """Return the best and the worst of some answers, or why there are none.

    Args:
        answers: texts, conversations, or objects that hold one, with a rank or score beside it.
        ranks: a number for each, 1 (or 0) being the best, in place of those inside.
        scores: a number for each, more being better, in place of those inside.
    """
    by, values = _values(answers, ranks, scores)
    if len(values) != len(answers):
        return f"{len(answers)} answers and {len(values)} {by}"
    rated = [(value, answer) for value, answer in zip(values, answers, strict=True) if value is not None]
    if len(rated) < 2:
        return "fewer than two answers with a rank or score"
    # max and min take the first of equals: the order of the source decides.
    best, worst = max(rated, key=lambda pair: pair[0]), min(rated, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        return "all answers tie"
    return Best(_answer(best[1]), _answer(worst[1]), len(answers) - 2, by)


def _values(answers: Sequence[Any], ranks: Any, scores: Any) -> tuple[str, list[float | None]]:
    """Return what ranks the answers and, for each, a number of which more is better."""
    given_ranks, given_scores = as_list(ranks), as_list(scores)
    if given_scores is not None:
        return "scores", [number_of(value) for value in given_scores]
    if given_ranks is not None:
        return "ranks", [_negative(number_of(value)) for value in given_ranks]
    for fields, sign in ((_RANK_FIELDS, -1), (_SCORE_FIELDS, 1)):
        inside = [_number(item, fields) if isinstance(item, Mapping) else None for item in answers]
        names = [name for name in inside if name is not None]
        if names:
            numbers = [None if found is None else sign * found[1] for found in inside]
            return f"'{names[0][0]}'", numbers
    return "their order, best first", [-float(index) for index in range(len(answers))]


def _number(item: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, float] | None:
    for field in fields:
        number = number_of(item.get(field))
        if number is not None:
            return field, number
    return None


def number_of(value: Any) -> float | None:
    """Return a cell as a number; None where it is missing (tables write NaN) or none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if number != number else number  # noqa: PLR0124  NaN differs from itself


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _answer(item: Any) -> Any:
    if not isinstance(item, Mapping) or "role" in item or "from" in item:
        return item
    return next((item[field] for field in _ANSWER_FIELDS if item.get(field) is not None), None)
