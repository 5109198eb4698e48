"""Fields of a normalised row, whatever its signal.

A row is a plain dict: text ``{"text"}``, demo ``{"messages"}`` or ``{"prompt", "completion"}``, pair
``{"prompt", "chosen", "rejected"}``, label ``{"prompt", "completion", "label"}`` and prompt ``{"prompt"}`` with
any further columns. Prompts and answers are strings or message lists, the label is a bool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
Message = dict[str, Any]
# What a model can be given of a row, in reading order; all other columns are for reward functions.
MODEL_FIELDS = ("text", "messages", "prompt", "completion", "chosen", "rejected")
ANSWER = "answer"  # the column of a prompt row that holds the known answer


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
    """Return the answers, joined by newlines; empty where there is none.

    Args:
        row: a normalised row.
        key: of a pair, the answer meant; without it the chosen one.
    """
    if "messages" in row:
        return "\n".join(m["content"] for m in row["messages"] if m["role"] == "assistant")
    found = key or next((name for name in ("chosen", "completion") if name in row), "")
    if found:
        return _as_text(row[found])
    known = row.get(ANSWER) if "prompt" in row else None
    return "" if known is None else str(known)


def question_text(row: Mapping[str, Any]) -> str:
    """Return what the person asked last before the last answer; empty for raw text."""
    turns = before_last_answer(row["messages"]) if "messages" in row else row.get("prompt", "")
    if isinstance(turns, str):
        return turns
    return next((str(turn["content"]) for turn in reversed(turns) if turn["role"] == "user"), "")


def said(row: Mapping[str, Any]) -> list[Any]:
    """Return the values of a row that a model can be given, in reading order."""
    return [row[name] for name in MODEL_FIELDS if name in row]


def contents(row: Mapping[str, Any]) -> list[str]:
    """Return every piece of text in the row that a model can be given, in order."""
    found: list[str] = []
    for value in said(row):
        if isinstance(value, str):
            found.append(value)
        else:
            found.extend(message["content"] for message in value)
    return found


def json_value(value: Any) -> Any:
    """Return a value as plain JSON: missing is None, arrays are lists, what JSON lacks is text."""
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, float) and value != value:  # noqa: PLR0124  NaN differs from itself
        return None
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)


def before_first_answer(messages: list[Message]) -> list[Message]:
    """Return the turns before the first assistant turn."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            return messages[:index]
    return messages


def before_last_answer(messages: list[Message]) -> list[Message]:
    """Return the turns before the assistant turns that end the conversation; all where it ends otherwise."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return messages[:end]


def shortened(value: Any, characters: int = 60) -> str:
    """Return a value on one line, cut to some characters, for messages and tables."""
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text[: 4 * characters].split())
    return line if len(line) <= characters and len(text) <= 4 * characters else line[: characters - 1] + "…"


def well_formed(text: str) -> str:
    """Return a text that libraries take: half characters (lone surrogates, which JSON can hold) are ``?``."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else _joined(value)


def _joined(messages: list[Message]) -> str:
    return "\n".join(message["content"] for message in messages)
