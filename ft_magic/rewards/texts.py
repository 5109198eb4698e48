"""What a reward sees of a conversation: one string for the prompt, one for the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Columns that never reach a reward function: the prompt comes as text, and token ids say nothing to it.
HIDDEN = ("prompt", "completion", "prompt_text", "prompt_ids", "completion_ids")


def prompt_text(prompt: Any) -> str:
    """Return a prompt as text: of messages the last user turn, or the last turn where no user speaks."""
    if isinstance(prompt, str):
        return prompt
    turns = list(prompt)
    asked = [turn for turn in turns if turn.get("role") == "user"] or turns
    return str(asked[-1]["content"]) if asked else ""


def visible(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Return the columns that reward functions may read."""
    return {name: values for name, values in columns.items() if name not in HIDDEN}
