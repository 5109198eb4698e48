"""What a judge is asked: fixed texts, so that equal questions have equal keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ft_magic.judging.settings import Judge

_HEAD = "Criteria: {criteria}\n\nRequest:\n{prompt}\n\n"
_PAIR = (
    "You compare two answers to the same request.\n\n"
    + _HEAD
    + "Answer A:\n{a}\n\nAnswer B:\n{b}\n\n"
    + "Which answer meets the criteria better? Reply with one letter, A or B, and nothing else."
)
_ONE = "You judge an answer to a request.\n\n" + _HEAD + "Answer:\n{a}\n\n"
# kind of question -> its text
TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "pair": _PAIR,
        "good": _ONE + "Does the answer meet the criteria? Reply with Yes or No and nothing else.",
        "grade": _ONE
        + "How well does the answer meet the criteria, from 1 (not at all) to 10 (fully)? "
        + "Reply with the number and nothing else.",
    }
)


@dataclass(frozen=True)
class Question:
    """One reading of one or two answers.

    Attributes:
        kind: a key of ``TEXTS``.
        prompt: what was asked.
        a: the answer, or the one shown first.
        b: the one shown second; empty where one answer is judged.
    """

    kind: str
    prompt: str
    a: str
    b: str = ""

    def text(self, criteria: str) -> str:
        """Return what the judge reads."""
        fields = {"criteria": criteria, "prompt": self.prompt, "a": self.a, "b": self.b}
        # One pass: an answer that itself holds "{b}" stays as it is.
        return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], TEXTS[self.kind])

    def key(self, judge: Judge, identity: Sequence[object]) -> str:
        """Return the SHA-256 of everything the reply depends on."""
        whole = [identity, judge.criteria, TEXTS[self.kind], self.prompt, self.a, self.b]
        return hashlib.sha256(json.dumps(whole, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a judge said.

    Attributes:
        value: for pairs the probability that A is better (an endpoint's letter is 1 or 0), for one answer its
            score from 0 to 1; None where the reply could not be read.
        raw: the reply as it came, or the log-odds it was read from.
    """

    value: float | None
    raw: str


def prompt_words(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a prompt as text: one user turn as it is, longer conversations with the speakers' names."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def answer_words(answer: str | Sequence[Mapping[str, Any]]) -> str:
    """Return an answer as text."""
    return answer if isinstance(answer, str) else "\n".join(str(turn["content"]) for turn in answer)
