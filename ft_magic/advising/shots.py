"""Rows as questions with a known answer, and prompts with examples before the question. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_magic.advising.nearest import Nearest
from ft_magic.data.row import ANSWER, Message, Row, before_last_answer

if TYPE_CHECKING:
    from ft_magic.template import Tokenizer

_ROLES = ("system", "user", "assistant")
Chat = list[Message]


@dataclass(frozen=True)
class Case:
    """A question with its expected answer.

    Attributes:
        turns: everything before the answer.
        answer: what is expected.
    """

    turns: tuple[Message, ...]
    answer: str

    @property
    def question(self) -> str:
        """All turns as text."""
        return "\n".join(str(turn["content"]) for turn in self.turns)


def case_of(row: Row) -> Case | None:
    """Return a row as a question with its answer; None where it holds none, or turns that call tools."""
    if "messages" in row:
        before = before_last_answer(row["messages"])
        answer: Any = row["messages"][len(before) :]
    elif "prompt" in row and row.get("label", True):
        prompt = row["prompt"]
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        key = next((name for name in ("completion", "chosen", ANSWER) if name in row), None)
        answer = row[key] if key else None
    else:
        return None
    if isinstance(answer, list):
        answer = answer[0].get("content") if len(answer) == 1 and "tool_calls" not in answer[0] else None
    plain = all(turn["role"] in _ROLES and isinstance(turn.get("content"), str) for turn in before)
    told = answer is not None and str(answer).strip()
    return Case(tuple(before), str(answer)) if before and plain and told else None


def with_shots(case: Case, shots: Sequence[Case], goal: str = "") -> Chat:
    """Return a conversation in which examples were answered already, and which ends with the case's question.

    The case's own system turn stays at the head; those of the examples are left out. The goal stands before the
    first user turn, which every chat template renders.
    """
    system = [dict(turn) for turn in case.turns if turn["role"] == "system"]
    chat: Chat = []
    for shot in shots:
        chat += [dict(turn) for turn in shot.turns if turn["role"] != "system"]
        chat.append({"role": "assistant", "content": shot.answer})
    chat += [dict(turn) for turn in case.turns if turn["role"] != "system"]
    first = next((turn for turn in chat if turn["role"] == "user"), None)
    if goal and first is not None:
        first["content"] = f"{goal}\n\n{first['content']}"
    return [*system, *chat]


def random_shots(pool: Sequence[Case], count: int, seed: int, place: int) -> list[Case]:
    """Return examples drawn for one question: each question has its own, so that no lucky choice decides."""
    chance = random.Random(f"{seed}/{place}")  # noqa: S311  reproducible choice, not a secret
    return chance.sample(list(pool), min(count, len(pool)))


def index_of(pool: Sequence[Case]) -> Nearest:
    """Return an index of rows as documents: of the question alone, how it is worded would outweigh what it is about."""
    return Nearest([f"{case.question}\n{case.answer}" for case in pool])


def nearest_shots(index: Nearest, pool: Sequence[Case], case: Case, count: int) -> list[Case]:
    """Return the most similar examples, the most similar last, beside the question (Liu et al. 2022, KATE)."""
    return [pool[place] for place in reversed(index.order(case.question, count))]


def as_prompt(tokenizer: Tokenizer, chat: Chat) -> str | Chat:
    """Return a conversation as the model takes it; without a chat template the turns stand one below the other."""
    if tokenizer.chat is not None:
        return chat
    return "\n\n".join(str(turn["content"]) for turn in chat) + "\n\n"


def fitting(
    case: Case, shots: Sequence[Case], goal: str, length: Callable[[Chat], int], room: int
) -> tuple[Chat | None, int]:
    """Return the prompt with as many examples as fit, and how many these are; None where not even the question fits.

    Args:
        case: the question.
        shots: examples; those at the end stay.
        goal: stands before all.
        length: of a conversation, in tokens.
        room: tokens there are.
    """
    for left_out in range(len(shots) + 1):
        chat = with_shots(case, shots[left_out:], goal)
        if length(chat) <= room:
            return chat, len(shots) - left_out
    return None, 0
