"""Turns of a conversation in OpenAI's and ShareGPT's form, and how cells hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ROLE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "system": "system", "developer": "system",
        "user": "user", "human": "user", "prompter": "user",
        "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
        "model": "assistant", "function_call": "assistant", "tool_call": "assistant",
        "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool",
        "ipython": "ipython",
    }
)  # fmt: skip

# What ShareGPT calls a turn in which the assistant calls a function instead of answering.
CALLS = frozenset(("function_call", "tool_call"))
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")


def turn(role: str, content: str) -> dict[str, Any]:
    """Return a turn in OpenAI's form."""
    return {"role": role, "content": content}


def role_of(said: Mapping[str, Any]) -> str | None:
    """Return who speaks in a turn, None where its role is unknown."""
    # Tables fill absent fields with None, so a present key may still say nothing.
    return ROLE_NAMES.get(name_of(said))


def name_of(said: Mapping[str, Any]) -> str:
    """Return what the speaker of a turn is called in the source, in lower case."""
    return str(said.get("role") or said.get("from")).lower()


def kind_of(value: Any) -> str:
    """Return what a cell holds: ``messages``, ``sharegpt``, ``object``, ``list``, ``none`` or ``text``."""
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124  NaN differs from itself
        return "none"
    items = as_list(value)
    if items is not None:
        first = items[0] if items and isinstance(items[0], Mapping) else {}
        if "role" in first:
            return "messages"
        return "sharegpt" if "from" in first else "list"
    return "object" if isinstance(value, Mapping) else "text"


def as_list(value: Any) -> list[Any] | None:
    """Return a list cell as a list, also where a table held it as an array or as JSON text; else None."""
    if isinstance(value, str) and _LIST_OF_OBJECTS.match(value):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if hasattr(value, "tolist") and not isinstance(value, str):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else None


def is_chat(value: Any) -> bool:
    """Return whether a cell holds a list of turns."""
    return kind_of(value) in ("messages", "sharegpt")


def has_answer(value: Any) -> bool:
    """Return whether the assistant speaks anywhere in a conversation cell."""
    turns = as_list(value) or []
    return any(isinstance(said, Mapping) and role_of(said) == "assistant" for said in turns)
