"""Judge answers to the sample task: is it the JSON that was asked for, and is each field right?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KEYS = ("intent", "order", "item", "reply")


@dataclass(frozen=True)
class TriageScore:
    """What is right about one answer.

    Attributes:
        prompt: the message with its instruction.
        answer: what the model wrote.
        valid_json: the whole answer is one JSON object and nothing else.
        right_keys: it has exactly the keys of ``KEYS``.
        intent: this field equals the expected one; so for ``order``, ``item`` and ``reply``.
        order: see ``intent``.
        item: see ``intent``.
        reply: see ``intent``.
        exact: all of it is right.
    """

    prompt: str
    answer: str
    valid_json: bool
    right_keys: bool
    intent: bool
    order: bool
    item: bool
    reply: bool

    @property
    def exact(self) -> bool:
        """Whether keys and all four fields are right."""
        return self.right_keys and self.intent and self.order and self.item and self.reply


@dataclass(frozen=True)
class TriageSummary:
    """The share of answers, 0 to 1, for which each point of ``TriageScore`` holds."""

    examples: int
    valid_json: float
    right_keys: float
    intent: float
    order: float
    item: float
    reply: float
    exact: float

    def __str__(self) -> str:
        points = ("valid_json", "right_keys", "intent", "order", "item", "reply", "exact")
        shares = ", ".join(f"{point} {getattr(self, point):.0%}" for point in points)
        return f"{self.examples} answers: {shares}"


def score(prompt: str, answer_text: str, expected_text: str) -> TriageScore:
    """Compare an answer with the expected one.

    Args:
        prompt: the message, kept for showing.
        answer_text: what the model wrote; white space around it is forgiven, anything else is not.
        expected_text: the right answer, a JSON object with ``KEYS``.
    """
    expected = json.loads(expected_text)
    found = _object(answer_text)
    # A missing field is wrong even where null is expected.
    right = {
        key: found is not None
        and key in found
        and type(found[key]) is type(expected[key])
        and found[key] == expected[key]
        for key in KEYS
    }
    return TriageScore(
        prompt=prompt,
        answer=answer_text,
        valid_json=found is not None,
        right_keys=found is not None and set(found) == set(KEYS),
        **right,
    )


def summary(scores: Sequence[TriageScore]) -> TriageSummary:
    """Return the share of answers for which each point holds; of no answers all shares are 0."""
    points = ("valid_json", "right_keys", *KEYS, "exact")
    count = len(scores)
    shares = {point: sum(getattr(one, point) for one in scores) / max(count, 1) for point in points}
    return TriageSummary(examples=count, **shares)


def _object(text: str) -> dict[str, Any] | None:
    """Return the JSON object a text consists of, or None."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
