"""Conversations written as one text: ``Human: ... Assistant: ...``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ft_magic.data.row import Message
from ft_magic.data.turns import kind_of, turn

_NAMES = {
    "human": "user", "user": "user", "assistant": "assistant", "ai": "assistant", "bot": "assistant",
    "system": "system",
}  # fmt: skip
_NAME = f"({'|'.join(_NAMES)})[ \\t]*:"
# Tried in this order: a mark before the name says most, then an empty line, then the begin of a line.
_BORDERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\s*###[ \t]*{_NAME}",  # openassistant-guanaco
        rf"(?:\A\s*|\n[ \t]*\n[ \t]*){_NAME}",  # hh-rlhf
        rf"(?:\A\s*|\n[ \t]*){_NAME}",
    )
)
_BEGIN = re.compile(rf"\s*(?:###[ \t]*)?{_NAME}", re.IGNORECASE)
_LEAST_SHARE = 0.9  # of a column's first values; the others are kept out and counted


def transcript_turns(text: str) -> list[Message] | None:
    """Return a transcript's turns, white space around each taken off; None where a text is no transcript.

    It is one where it begins with a speaker's name and the person and the assistant both speak; the last
    turn may be empty, as in prompts that end with ``Assistant:``.
    """
    if not _BEGIN.match(text):
        return None
    for border in _BORDERS:
        found = list(border.finditer(text))
        speakers = {_NAMES[match[1].lower()] for match in found}
        if {"user", "assistant"} <= speakers and found[0].start() == 0:
            ends = [match.start() for match in found[1:]] + [len(text)]
            return [
                turn(_NAMES[match[1].lower()], text[match.end() : end].strip())
                for match, end in zip(found, ends, strict=True)
            ]
    return None


def holds_transcripts(values: Iterable[Any]) -> bool:
    """Return whether (nearly) all filled values of a column are transcripts."""
    filled = [value for value in values if kind_of(value) != "none" and value != ""]
    if not filled or not isinstance(filled[0], str):
        return False
    fitting = sum(isinstance(value, str) and transcript_turns(value) is not None for value in filled)
    return fitting >= _LEAST_SHARE * len(filled)
