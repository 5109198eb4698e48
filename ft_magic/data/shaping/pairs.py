"""Reads pairs: a better and a worse answer, side by side, in a ranked list, or as replies in a tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_magic.data.row import Message, Row, shortened
from ft_magic.data.shaping.cells import UnusableError, filled
from ft_magic.data.shaping.ranked import best_and_worst
from ft_magic.data.shaping.record_fields import Fields
from ft_magic.data.shaping.trees import Node, ranked_replies
from ft_magic.data.turns import as_list, is_chat, turn


class Pairs(Fields):
    """Reads pair rows."""

    def _pair_row(self, record: Mapping[str, Any]) -> Row:
        if "answers" in self._columns:
            chosen, rejected = self._ends(record)
        elif "better" in self._columns:
            chosen, rejected = self._judged(record)
        else:
            chosen, rejected = self._cell(record, "chosen"), self._cell(record, "rejected")
        prompt = self._cell(record, "messages" if "messages" in self._columns else "prompt")
        if not any(isinstance(v, Mapping) or is_chat(v) for v in (prompt, chosen, rejected)):
            return self._string_pair(record, chosen, rejected)
        better, worse = (
            self.answer_turns(chosen, "empty chosen answer"),
            self.answer_turns(rejected, "empty rejected answer"),
        )
        if len(better) > 1 or len(worse) > 1:
            shared = _shared_prompt(better, worse)
            if shared:
                turns, better, worse = better[:shared], better[shared:], worse[shared:]
                return self._message_pair(record, turns, better, worse)
        if is_chat(prompt):
            turns = self.messages(prompt)
        elif "prompt" not in self._columns:
            raise UnusableError("chosen and rejected share no prompt")
        else:
            turns = [turn("user", self._prompt(record))]
        return self._message_pair(record, turns, better, worse)

    def _string_pair(self, record: Mapping[str, Any], better: Any, worse: Any) -> Row:
        question = self._prompt(record)
        chosen = filled(self.text(better), "empty chosen answer")
        rejected = filled(self.text(worse), "empty rejected answer")
        if not self._as_messages:
            return {"prompt": question, "chosen": chosen, "rejected": rejected}
        turns = self._with_system(record, [turn("user", question)])
        answers = {"chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
        return {"prompt": turns, **answers}

    def _message_pair(
        self, record: Mapping[str, Any], turns: list[Message], better: list[Message], worse: list[Message]
    ) -> Row:
        for answer, name in ((better, "chosen"), (worse, "rejected")):
            if not answer or answer[-1]["role"] != "assistant":
                raise UnusableError(f"{name} does not end with an answer of the assistant")
            if "tool_calls" not in answer[-1]:
                filled(answer[-1]["content"], f"empty {name} answer")
        if not any(turn["content"].strip() for turn in turns if turn["role"] != "system"):
            raise UnusableError("empty prompt")
        return {"prompt": self._with_system(record, turns), "chosen": better, "rejected": worse}

    def _ends(self, record: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the best and the worst of a list of answers."""
        answers = as_list(self._cell(record, "answers"))
        if not answers:
            raise UnusableError("no list of answers")
        found = best_and_worst(answers, self._cell(record, "ranks"), self._cell(record, "scores"))
        if isinstance(found, str):
            raise UnusableError(found)
        self.changes[f"pairs made of the best and the worst answer by {found.by}"] += 1
        if found.between:
            self.changes["answers between the best and the worst left out"] += found.between
        return found.best, found.worst

    def _judged(self, record: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the better and the worse of two answers by a verdict that ends like the better one's column."""
        verdict = self.text(self._cell(record, "better")).strip().lower().removesuffix(".0")
        sides = [role for role in ("first", "second") if verdict and _ends_like(self._columns[role], verdict)]
        if len(sides) != 1:
            tie = "tie" in verdict or verdict == "both"
            raise UnusableError("a tie" if tie else f"no verdict but {shortened(verdict, 20)!r}")
        other = "second" if sides[0] == "first" else "first"
        return self._cell(record, sides[0]), self._cell(record, other)

    def _tree_pairs(self, root: Node) -> list[Row]:
        rows: list[Row] = []
        for replies in ranked_replies(root):
            texts = [replies.best.text, replies.worst.text, *(said["content"] for said in replies.prompt)]
            if not all(text.strip() for text in texts):
                self.changes["ranked replies with an empty message left out"] += 1
                continue
            if replies.between:
                self.changes["answers between the best and the worst left out"] += replies.between
            prompt, *ends = map(self.messages, (replies.prompt, [replies.best.turn], [replies.worst.turn]))
            rows.append({"prompt": prompt, "chosen": ends[0], "rejected": ends[1]})
        if not rows:
            raise UnusableError("no message with two answers of different rank")
        return rows


def _ends_like(column: str, verdict: str) -> bool:
    """Return whether the last parts of a column's name and a verdict are one: response_a and model_a."""
    return column.lower().rpartition("_")[2] == verdict.rpartition("_")[2]


def _shared_prompt(better: list[Message], worse: list[Message]) -> int:
    """Return how many first turns both conversations share, stopping before an answer of the assistant."""
    if better[0]["role"] == "assistant":
        return 0  # answers only: the prompt stands in a column of its own
    shared = 0
    for one, other in zip(better[:-1], worse[:-1], strict=False):
        if one != other:
            break
        shared += 1
    while shared and better[shared]["role"] != "assistant":
        shared -= 1
    return shared
