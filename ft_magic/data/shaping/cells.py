"""Reads cells: text, conversations and plain values, counting what is changed on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ft_magic.data.row import Message, json_value, shortened
from ft_magic.data.turns import as_list, is_chat, kind_of, role_of, turn

# Fields of a message, beside role and content, that chat templates read.
_EXTRA_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content")


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
        return [self.message(item) for item in items]

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
        extras = {key: value[key] for key in _EXTRA_FIELDS if value.get(key) is not None}
        return {"role": role, "content": content, **extras}

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


def filled(text: str, why: str) -> str:
    """Return a text that says something.

    Raises:
        UnusableError: it is empty; ``why`` is the reason given.
    """
    if not text.strip():
        raise UnusableError(why)
    return text
