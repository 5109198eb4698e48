"""Reads the fields of a record by the role they play: prompt, system, history, tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_magic.data.row import Message
from ft_magic.data.shaping.cells import Cells, UnusableError, filled
from ft_magic.data.shaping.detect import Detected
from ft_magic.data.shaping.tools import tools_of
from ft_magic.data.shaping.transcripts import transcript_turns
from ft_magic.data.turns import as_list, turn


class Fields(Cells):
    """Reads fields of records of one shape.

    Args:
        detected: shape and columns of the records.
    """

    def __init__(self, detected: Detected) -> None:
        super().__init__()
        self._columns = detected.columns
        self._transcripts = detected.transcripts
        self._signed = detected.signed
        # All rows of one data set get one form: messages as soon as a column needs them.
        self._as_messages = bool({"system", "history", "tools"} & set(detected.columns))

    def _cell(self, record: Mapping[str, Any], role: str) -> Any:
        column = self._columns.get(role)
        if column is None:
            return None
        value = record.get(column)
        if column in self._transcripts and isinstance(value, str):
            return self._transcript(value, role)
        return value

    def _transcript(self, text: str, role: str) -> list[Message]:
        turns = transcript_turns(text)
        if turns is None:
            raise UnusableError("no transcript of a person and the assistant")
        if role == "prompt" and turns[-1] == turn("assistant", ""):
            return turns[:-1]  # a prompt that ends with "Assistant:"
        return turns

    def _string(self, record: Mapping[str, Any], role: str) -> str:
        return self.text(self._cell(record, role))

    def _prompt(self, record: Mapping[str, Any]) -> str:
        parts = (self._string(record, "prompt"), self._string(record, "input"))
        return filled("\n\n".join(part for part in parts if part.strip()), "empty prompt")

    def _history(self, record: Mapping[str, Any]) -> list[Message]:
        turns: list[Message] = []
        for pair in as_list(self._cell(record, "history")) or []:
            exchange = as_list(pair)
            if exchange is None or len(exchange) != 2:
                raise UnusableError("history is no list of [question, answer]")
            asked, answered = (self.text(part) for part in exchange)
            turns += [
                turn("user", asked),
                turn("assistant", filled(answered, "empty answer in history")),
            ]
        return turns

    def _with_system(self, record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
        system = self._string(record, "system")
        if system.strip() and not (turns and turns[0]["role"] == "system"):
            return [turn("system", system), *turns]
        return turns

    def _tools(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the tools a conversation may call; empty where it has none."""
        tools = tools_of(self._cell(record, "tools"))
        if tools is None:
            raise UnusableError("tools are no list of functions")
        return list(self.plain("tools", tools))
