"""Fields of a normalised row, whatever its signal.

A row is a plain dict: text ``{"text"}``, demo ``{"messages"}`` or ``{"prompt", "completion"}``, pair
``{"prompt", "chosen", "rejected"}`` with strings or message lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
Message = dict[str, Any]


def canonical(row: Mapping[str, Any]) -> str:
    """Return the row as JSON with sorted keys: equal rows give equal text."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True)


def prompt_text(row: Mapping[str, Any]) -> str:
    """Return what stands before the first answer; for raw text the text itself."""
    if "text" in row:
        return str(row["text"])
    if "messages" in row:
        return _joined(before_first_answer(row["messages"]))
    return _as_text(row["prompt"])


def answer_text(row: Mapping[str, Any], key: str = "") -> str:
    """Return the answers, joined by newlines; for pairs the chosen one unless ``key`` names the other."""
    if "messages" in row:
        return "\n".join(m["content"] for m in row["messages"] if m["role"] == "assistant")
    return _as_text(row[key or ("chosen" if "chosen" in row else "completion")]) if "text" not in row else ""


def contents(row: Mapping[str, Any]) -> list[str]:
    """Return every piece of text in the row, in order."""
    found: list[str] = []
    for value in row.values():
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            found.extend(message["content"] for message in value)
    return found


def before_first_answer(messages: list[Message]) -> list[Message]:
    """Return the turns before the first assistant turn."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            return messages[:index]
    return messages


def shortened(value: Any, characters: int = 60) -> str:
    """Return a value on one line, cut to some characters, for messages and tables."""
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text[: 4 * characters].split())
    return line if len(line) <= characters and len(text) <= 4 * characters else line[: characters - 1] + "…"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else _joined(value)


def _joined(messages: list[Message]) -> str:
    return "\n".join(message["content"] for message in messages)
