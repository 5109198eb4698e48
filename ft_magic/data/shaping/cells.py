"""Reads cells: text, conversations and plain values, counting what is changed on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ft_magic.data.labels import as_label
from ft_magic.data.row import Message, json_value, shortened
from ft_magic.data.shaping.tools import calls_of
from ft_magic.data.turns import CALLS, as_list, is_chat, kind_of, name_of, role_of, turn

# Fields of a message, beside role and content, that chat templates read as they stand.
_EXTRA_FIELDS = ("name", "tool_call_id", "reasoning_content")
# Fields that say whether an answer is trained: Axolotl's, and OpenAI's weight of 0 or 1.
_TRAINED_FIELDS = ("train", "training", "weight")


class UnusableError(ValueError):
    """Why a record cannot become a row."""


class Cells:
    """Reads cells; ``changes`` counts what was not taken as it stood."""

    def __init__(self) -> None:
        self.changes: Counter[str] = Counter()

    def text(self, value: Any) -> str:
        """Return a cell as text: missing is empty, numbers and objects are written out and counted."""
        if isinstance(value, str):
            return self._without_surrogates(value)
        if kind_of(value) == "none" or type(value).__name__ in ("NAType", "NaTType"):
            return ""
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, bytes):
            raise UnusableError("holds bytes where text is meant")
        if isinstance(value, dict | list | tuple):
            self.changes["objects written as JSON text"] += 1
            return self._without_surrogates(json.dumps(value, ensure_ascii=False, default=str))
        self.changes["numbers and other values written as text"] += 1
        return str(value)

    def _without_surrogates(self, text: str) -> str:
        """Repair lone halves of surrogate pairs (broken escapes): no tokenizer and no file takes them."""
        try:
            text.encode()
        except UnicodeEncodeError:
            self.changes["broken unicode escapes replaced by U+FFFD"] += 1
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def messages(self, value: Any) -> list[Message]:
        """Return a conversation in OpenAI's form from OpenAI's or ShareGPT's."""
        items = as_list(value)
        if not items:
            raise UnusableError("no conversation")
        turns: list[Message] = []
        for item, before in zip(items, (None, *items), strict=False):
            said = self.message(item)
            if _is_call(item) and _is_call(before) and "tool_calls" in said and "tool_calls" in turns[-1]:
                turns[-1]["tool_calls"] += said["tool_calls"]  # several calls at once
            else:
                turns.append(said)
        return turns

    def message(self, value: Any) -> Message:
        """Return one turn in OpenAI's form from OpenAI's or ShareGPT's."""
        if not isinstance(value, Mapping):
            raise UnusableError(f"a turn is not an object but {shortened(value, 30)}")
        role = role_of(value)
        if role is None:
            name = value.get("role") or value.get("from")
            raise UnusableError(f"unknown role {shortened(str(name), 20)!r}")
        written = value.get("content")
        content = self._content(value.get("value") if written is None else written)
        said = {"role": role, "content": content}
        if _is_call(value):
            calls = calls_of(content)
            if calls is not None:
                self.changes["function calls written as JSON read as tool_calls"] += 1
                said = {"role": role, "content": "", "tool_calls": self.plain("tool_calls", calls)}
            else:
                self.changes["function calls that are no JSON kept as the answer's text"] += 1
        return {**said, **self._extras(role, value)} if len(value) > 2 else said

    def _extras(self, role: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return a message's fields beside role and content."""
        extras = {key: self.plain(key, value[key]) for key in _EXTRA_FIELDS if value.get(key) is not None}
        written: Any = value.get("tool_calls")
        if hasattr(written, "tolist"):
            written = written.tolist()
        written = written or value.get("function_call")  # OpenAI's form before tools
        if written and role == "assistant":
            calls = calls_of(written)
            if calls is None:
                raise UnusableError("a tool call without a name or with arguments that are no JSON object")
            extras["tool_calls"] = self.plain("tool_calls", calls)
        if not self._is_trained(role, value):
            extras["train"] = False
        return extras

    def _is_trained(self, role: str, value: Mapping[str, Any]) -> bool:
        marks = [value[key] for key in _TRAINED_FIELDS if value.get(key) is not None]
        if role != "assistant":
            if any(value.get(key) is True for key in _TRAINED_FIELDS):
                self.changes["turns marked as trained that are no answers: not trained"] += 1
            return True
        for mark in marks:
            trained = as_label(mark)
            if trained is None:
                self.changes["weights of turns other than 0 and 1 read as 1"] += 1
            elif not trained:
                self.changes["answers marked as not trained"] += 1
                return False
        return True

    def _content(self, value: Any) -> str:
        """Return a turn's text; OpenAI's list of parts is joined."""
        parts = as_list(value)
        if parts is None or isinstance(value, str):
            return self.text(value)
        if any(not isinstance(part, Mapping) or "text" not in part for part in parts):
            raise UnusableError("a turn holds something that is not text (an image?)")
        return "".join(self.text(part["text"]) for part in parts)

    def answer_turns(self, value: Any, why_not: str) -> list[Message]:
        """Return an answer as turns, from a text, one turn or several; ``why_not`` refuses an empty text."""
        if isinstance(value, Mapping):
            return [self.message(value)]
        if is_chat(value):
            return self.messages(value)
        return [turn("assistant", filled(self.text(value), why_not))]

    def plain(self, column: str, value: Any) -> Any:
        """Return a cell of a further column as plain JSON."""
        if isinstance(value, bytes):
            raise UnusableError(f"'{shortened(column, 20)}' holds bytes")
        found = json_value(value)
        written = json.dumps(found, ensure_ascii=False)
        repaired = self._without_surrogates(written)
        return found if repaired is written else json.loads(repaired)


def _is_call(value: Any) -> bool:
    return isinstance(value, Mapping) and name_of(value) in CALLS


def filled(text: str, why: str) -> str:
    """Return a text that says something.

    Raises:
        UnusableError: it is empty; ``why`` is the reason given.
    """
    if not text.strip():
        raise UnusableError(why)
    return text
