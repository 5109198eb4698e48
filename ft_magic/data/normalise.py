"""Turns one record of a known shape into one normalised row, or says why it cannot be used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ft_magic.data.detect import Detected, as_list, kind_of
from ft_magic.data.row import Message, Row, shortened

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
# Fields of a message, beside role and content, that chat templates read.
_EXTRA_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content")


class UnusableError(ValueError):
    """Why a record cannot become a row."""


class Reader:
    """Normalises records of one shape and counts what it changes on the way.

    Args:
        detected: shape and columns of the records.
    """

    def __init__(self, detected: Detected) -> None:
        self.changes: Counter[str] = Counter()
        self._columns = detected.columns
        readers: Mapping[str, Callable[[Mapping[str, Any]], Row]] = {
            "text": self._text_row,
            "demo": self._chat_row if "messages" in detected.columns else self._answer_row,
            "pair": self._pair_row,
        }
        self._read = readers[detected.shape.signal]
        # All rows of one data set get one form: messages as soon as a system or history column is in play.
        self._as_messages = bool({"system", "history"} & set(detected.columns))

    def row(self, record: Any) -> Row:
        """Return the normalised row of a record.

        Raises:
            UnusableError: with the reason.
        """
        if not isinstance(record, Mapping):
            raise UnusableError(f"not an object but {shortened(record, 30)}")
        return self._read(record)

    def _cell(self, record: Mapping[str, Any], role: str) -> Any:
        column = self._columns.get(role)
        return None if column is None else record.get(column)

    def _string(self, record: Mapping[str, Any], role: str) -> str:
        return self.text(self._cell(record, role))

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

    def _text_row(self, record: Mapping[str, Any]) -> Row:
        return {"text": _filled(self._string(record, "text"), "empty text")}

    def _prompt(self, record: Mapping[str, Any]) -> str:
        parts = (self._string(record, "prompt"), self._string(record, "input"))
        return _filled("\n\n".join(part for part in parts if part.strip()), "empty prompt")

    def _answer_row(self, record: Mapping[str, Any]) -> Row:
        prompt, completion = self._cell(record, "prompt"), self._cell(record, "completion")
        if is_chat(prompt) and is_chat(completion):
            turns = self.messages(prompt) + self.messages(completion)
            return {"messages": self._checked_chat(self._with_system(record, turns))}
        question = self._prompt(record)
        answer = _filled(self.text(completion), "empty answer")
        if not self._as_messages:
            return {"prompt": question, "completion": answer}
        turns = [*self._history(record), _message("user", question), _message("assistant", answer)]
        return {"messages": self._with_system(record, turns)}

    def _history(self, record: Mapping[str, Any]) -> list[Message]:
        turns: list[Message] = []
        for pair in as_list(self._cell(record, "history")) or []:
            exchange = as_list(pair)
            if exchange is None or len(exchange) != 2:
                raise UnusableError("history is no list of [question, answer]")
            asked, answered = (self.text(part) for part in exchange)
            turns += [
                _message("user", asked),
                _message("assistant", _filled(answered, "empty answer in history")),
            ]
        return turns

    def _chat_row(self, record: Mapping[str, Any]) -> Row:
        return {
            "messages": self._checked_chat(
                self._with_system(record, self.messages(self._cell(record, "messages")))
            )
        }

    def _with_system(self, record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
        system = self._string(record, "system")
        if system.strip() and not (turns and turns[0]["role"] == "system"):
            return [_message("system", system), *turns]
        return turns

    def _checked_chat(self, turns: list[Message]) -> list[Message]:
        """Check that there is something to answer and an answer; leave out turns after the last answer."""
        answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not answers:
            raise UnusableError("no assistant turn")
        if any(not turns[index]["content"].strip() and "tool_calls" not in turns[index] for index in answers):
            raise UnusableError("empty answer")
        if not any(turn["content"].strip() for turn in turns if turn["role"] not in ("assistant", "system")):
            raise UnusableError("empty prompt")
        if answers[-1] + 1 < len(turns):
            self.changes["conversations cut after their last answer"] += 1
        return turns[: answers[-1] + 1]

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
        # Tables fill absent fields with None, so a present key may still say nothing.
        name = value.get("role") or value.get("from")
        role = ROLE_NAMES.get(str(name).lower())
        if role is None:
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

    def _pair_row(self, record: Mapping[str, Any]) -> Row:
        prompt = self._cell(record, "messages" if "messages" in self._columns else "prompt")
        chosen, rejected = self._cell(record, "chosen"), self._cell(record, "rejected")
        if not any(isinstance(v, Mapping) or is_chat(v) for v in (prompt, chosen, rejected)):
            return self._string_pair(record)
        better, worse = self._answer_turns(chosen, "chosen"), self._answer_turns(rejected, "rejected")
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
            turns = [_message("user", self._prompt(record))]
        return self._message_pair(record, turns, better, worse)

    def _string_pair(self, record: Mapping[str, Any]) -> Row:
        question = self._prompt(record)
        chosen = _filled(self._string(record, "chosen"), "empty chosen answer")
        rejected = _filled(self._string(record, "rejected"), "empty rejected answer")
        if not self._as_messages:
            return {"prompt": question, "chosen": chosen, "rejected": rejected}
        turns = self._with_system(record, [_message("user", question)])
        answers = {"chosen": [_message("assistant", chosen)], "rejected": [_message("assistant", rejected)]}
        return {"prompt": turns, **answers}

    def _message_pair(
        self, record: Mapping[str, Any], turns: list[Message], better: list[Message], worse: list[Message]
    ) -> Row:
        for answer, name in ((better, "chosen"), (worse, "rejected")):
            if not answer or answer[-1]["role"] != "assistant":
                raise UnusableError(f"{name} does not end with an answer of the assistant")
            _filled(answer[-1]["content"], f"empty {name} answer")
        if not any(turn["content"].strip() for turn in turns if turn["role"] != "system"):
            raise UnusableError("empty prompt")
        return {"prompt": self._with_system(record, turns), "chosen": better, "rejected": worse}

    def _answer_turns(self, value: Any, name: str) -> list[Message]:
        if isinstance(value, Mapping):
            return [self.message(value)]
        if is_chat(value):
            return self.messages(value)
        return [_message("assistant", _filled(self.text(value), f"empty {name} answer"))]


def is_chat(value: Any) -> bool:
    """Return whether a cell holds a list of turns."""
    return kind_of(value) in ("messages", "sharegpt")


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _filled(text: str, why: str) -> str:
    if not text.strip():
        raise UnusableError(why)
    return text


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
