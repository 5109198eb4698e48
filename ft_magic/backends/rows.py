"""Rows of a run as token ids, made once and shared by every backend: what the audit showed is what is fed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_magic.data.row import answer_text, question_text, shortened
from ft_magic.errors import TemplateError
from ft_magic.planning.plans import Plan
from ft_magic.template import Rendered, Tokenizer, prompt_ids, render, render_pair

IGNORED = -100  # label that torch's cross entropy and TRL leave out of the loss

UNTRAINED = "no trained token within max_length"
NO_ROOM = "the prompt leaves no room for an answer within max_length"
EQUAL = "chosen and rejected are equal within max_length"
EMPTY = "an answer is empty"

Fed = dict[str, Any]


@dataclass(frozen=True)
class Tokenized:
    """Rows as a trainer is fed.

    Attributes:
        rows: columns by the method's feed, see ``tokenized``.
        dropped: why rows were left out -> how many.
    """

    rows: list[Fed]
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def reasons(self) -> str:
        """Why rows were left out, as text; empty where none was."""
        return ", ".join(f"{count} x {why}" for why, count in self.dropped.items())


class _UnfedError(Exception):
    """Why a row cannot be fed."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the normalised rows of a JSON-lines file; nothing where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def tokenized(path: Path, tokenizer: Tokenizer, plan: Plan, limit: int | None = None) -> Tokenized:
    """Return the rows of a file as the plan's method is fed (``Method.feed``).

    Answers end with their stop token: what a template writes after it (a newline) is never fed as an answer.

    Args:
        path: JSON-lines file of normalised rows.
        tokenizer: of the model to train.
        plan: its method says what is fed, its ``max_length`` where rows are cut, in tokens.
        limit: most rows to feed; rows after them are neither read nor counted.

    Returns:
        ``labels``: ``input_ids`` and ``labels`` of equal length, ``IGNORED`` where a token carries no loss.
        ``pairs``: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``.
        ``whole_pairs``: ``chosen_ids`` and ``rejected_ids``, each with its prompt.
        ``judged``: ``prompt_ids``, ``completion_ids`` and ``label``, True for good.
        ``prompts``: ``prompt_ids``, ``prompt_text`` (the last user turn) and every column of the row.
        ``demos``: ``prompt_ids``, ``completion_ids`` (the last answer) and ``prompt_text``.
    """
    feed, longest = FEEDS[plan.method.feed], plan.settings.max_length
    if feed is _labels:
        feed = partial(_labels, train_on=plan.spec.train_on)
    if plan.method.feed == "prompts":
        longest -= max(0, plan.settings.max_completion_length - 1)  # room for the answer
    made = Tokenized([])
    for row in read(path):
        if limit is not None and len(made.rows) >= limit:
            break
        try:
            made.rows.append(feed(row, tokenizer, longest))
        except _UnfedError as why:
            made.dropped[str(why)] += 1
        except TemplateError as error:
            made.dropped[f"cannot be rendered: {shortened(error.problem, 120)}"] += 1
    return made


def _labels(
    row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int, train_on: str = "answers"
) -> Fed:
    rendered = render(tokenizer, row, max_length_tokens=max_length_tokens, train_on=train_on)
    if not any(rendered.mask[1:]):  # nothing stands before the first token to predict it from
        raise _UnfedError(UNTRAINED)
    labels = [
        token if trained else IGNORED for token, trained in zip(rendered.ids, rendered.mask, strict=True)
    ]
    return {"input_ids": list(rendered.ids), "labels": labels}


def _pair(row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int) -> Fed:
    if not (answer_text(row, "chosen").strip() and answer_text(row, "rejected").strip()):
        raise _UnfedError(EMPTY)
    chosen, rejected, prompt_tokens = render_pair(tokenizer, row, max_length_tokens=max_length_tokens)
    sides = [_answer_ids(side, prompt_tokens) for side in (chosen, rejected)]
    if sides[0] == sides[1]:
        raise _UnfedError(EQUAL)
    return {"prompt_ids": chosen.ids[:prompt_tokens], "chosen_ids": sides[0], "rejected_ids": sides[1]}


def _whole_pair(row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int) -> Fed:
    pair = _pair(row, tokenizer, max_length_tokens)
    return {side: pair["prompt_ids"] + pair[side] for side in ("chosen_ids", "rejected_ids")}


def _judged(row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int) -> Fed:
    return _answered(row, tokenizer, max_length_tokens) | {"label": bool(row["label"])}


def _demo(row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int) -> Fed:
    return _answered(row, tokenizer, max_length_tokens) | {"prompt_text": question_text(row)}


def _prompt(row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int) -> Fed:
    ids = prompt_ids(tokenizer, row)
    if len(ids) >= max_length_tokens:
        raise _UnfedError(NO_ROOM)
    return {**row, "prompt_ids": ids, "prompt_text": question_text(row)}


def _answered(row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int) -> Fed:
    """Return the prompt and the last answer of a row that has one."""
    if not answer_text(row).strip():
        raise _UnfedError(EMPTY)
    shown = render(tokenizer, row, max_length_tokens=max_length_tokens, train_on=_train_on(row))
    completion = _answer_ids(shown, shown.prompt_tokens)
    return {"prompt_ids": shown.ids[: shown.prompt_tokens], "completion_ids": completion}


def _train_on(row: Mapping[str, Any]) -> str:
    # A conversation holds earlier answers; prompt and completion stand apart already.
    return "last" if "messages" in row else "answers"


def _answer_ids(side: Rendered, prompt_tokens: int) -> list[int]:
    """Return the ids from the end of the prompt to the last trained one."""
    trained = [place for place, on in enumerate(side.mask) if on]
    if not trained:
        raise _UnfedError(NO_ROOM)
    return side.ids[prompt_tokens : trained[-1] + 1]


# ``Method.feed`` -> what makes a row of it
FEEDS: Mapping[str, Callable[[Mapping[str, Any], Tokenizer, int], Fed]] = MappingProxyType(
    {
        "labels": _labels,
        "pairs": _pair,
        "whole_pairs": _whole_pair,
        "judged": _judged,
        "prompts": _prompt,
        "demos": _demo,
    }
)
