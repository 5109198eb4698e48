"""What only a person can say about a task: a few questions, each with few answers; none is ever guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ft_magic.errors import SpecError, nearest

# Nine of ten answers right. No paper can know what is enough for a task: it is a choice, and ``target=`` is yours.
TARGET = 0.9
_PERIODS = ("daily", "weekly", "monthly", "yearly", "never")
# A change needs rows, a run, an evaluation and a roll-out each time; what changes within a month outruns that.
FAST = frozenset(("daily", "weekly", "monthly"))


@dataclass(frozen=True)
class Question:
    """One question of the form.

    Attributes:
        key: keyword of ``ft.advise``, and option of ``%ft advise``.
        asks: the question.
        answers: word -> what it means.
        decides: whether a rule reads it; else it only adds to the evidence.
    """

    key: str
    asks: str
    answers: Mapping[str, str]
    decides: bool = True


_ROWS = (
    Question(
        "needs",
        "What has the model to take from your rows?",
        MappingProxyType(
            {
                "format": "the form of an answer or the way to it: JSON, labels, fixed wording, a skill",
                "style": "a tone or manner",
                "facts": "facts that the question does not hold",
                "both": "a form and facts",
            }
        ),
    ),
    Question(
        "facts_change",
        "How often do the facts in the answers change?",
        MappingProxyType(dict.fromkeys(_PERIODS, "")),
    ),
    Question(
        "runtime",
        "Where will it answer?",
        MappingProxyType(
            {"cloud": "behind a provider's endpoint, paid by the token", "own": "on a machine of your own"}
        ),
        decides=False,
    ),
)
QUESTIONS: Mapping[str, Question] = MappingProxyType({row.key: row for row in _ROWS})


@dataclass(frozen=True)
class Form:
    """The answers; None = nobody has answered.

    Attributes:
        needs: what the model has to take from the rows, see ``QUESTIONS``.
        facts_change: how often the facts in the answers change.
        runtime: where it will answer.
        goal: the task in words; put before every question that is tried.
        target: score from which answers are good enough, 0 to 1.
    """

    needs: str | None = None
    facts_change: str | None = None
    runtime: str | None = None
    goal: str = ""
    target: float = TARGET

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Keys of the questions nobody has answered."""
        return tuple(key for key in QUESTIONS if getattr(self, key) is None)

    def with_answers(self, **answers: Any) -> Form:
        """Return the form with other answers.

        Raises:
            SpecError: no such question, or no such answer to it.
        """
        known = (*QUESTIONS, "goal", "target")
        for key in answers:
            if key not in known:
                raise SpecError(
                    f"advise asks nothing called '{key}'.{nearest(key, known)}", f"Keys: {', '.join(known)}."
                )
        made = replace(self, **answers)
        made.check()
        return made

    def check(self) -> None:
        """See that every answer is one.

        Raises:
            SpecError: it is not.
        """
        for key, question in QUESTIONS.items():
            word = getattr(self, key)
            if word is not None and word not in question.answers:
                raise SpecError(
                    f"advise: {key} is {word!r}.{nearest(str(word), question.answers)}",
                    f"{question.asks} Write one of: {', '.join(question.answers)}; or leave it out.",
                )
        if not isinstance(self.target, int | float) or not 0 < self.target <= 1:
            raise SpecError(
                f"advise: target is {self.target!r}, and scores lie between 0 and 1.", "Write target=0.9."
            )
