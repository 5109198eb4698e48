"""Turns one record of a known shape into one normalised row, or says why it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from ft_magic.data.cells import Cells, UnusableError, filled
from ft_magic.data.detect import Detected
from ft_magic.data.labels import SHOWN_LABELS, as_label
from ft_magic.data.row import ANSWER, MODEL_FIELDS, Message, Row, before_last_answer, shortened
from ft_magic.data.turns import as_list, is_chat, kind_of, turn
from ft_magic.errors import DataError

NO_ANSWER = "no assistant turn"
# Names that mean something else in a row or to a reward function; such a column gets a "_" at its end.
_TAKEN = frozenset(
    (*MODEL_FIELDS, ANSWER, "prompts", "completions", "completion_ids", "prompt_ids", "prompt_text")
)


class Reader(Cells):
    """Normalises records of one shape and counts what it changes on the way.

    Args:
        detected: shape and columns of the records.
    """

    def __init__(self, detected: Detected) -> None:
        super().__init__()
        self._columns = detected.columns
        readers: Mapping[str, Callable[[Mapping[str, Any]], Row]] = {
            "text": self._text_row,
            "demo": self._demo_row,
            "pair": self._pair_row,
            "label": self._label_row,
            "prompt": self._prompt_row,
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

    def _text_row(self, record: Mapping[str, Any]) -> Row:
        return {"text": filled(self._string(record, "text"), "empty text")}

    def _prompt(self, record: Mapping[str, Any]) -> str:
        parts = (self._string(record, "prompt"), self._string(record, "input"))
        return filled("\n\n".join(part for part in parts if part.strip()), "empty prompt")

    def _demo_row(self, record: Mapping[str, Any]) -> Row:
        return self._chat_row(record) if "messages" in self._columns else self._answer_row(record)

    def _answer_row(self, record: Mapping[str, Any]) -> Row:
        prompt, completion = self._cell(record, "prompt"), self._cell(record, "completion")
        if is_chat(prompt):
            turns = self.messages(prompt) + self.answer_turns(completion, "empty answer")
            return {"messages": self._checked_chat(self._with_system(record, turns))}
        question = self._prompt(record)
        answer = filled(self.text(completion), "empty answer")
        if not self._as_messages:
            return {"prompt": question, "completion": answer}
        turns = [*self._history(record), turn("user", question), turn("assistant", answer)]
        return {"messages": self._with_system(record, turns)}

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

    def _chat_row(self, record: Mapping[str, Any]) -> Row:
        return {
            "messages": self._checked_chat(
                self._with_system(record, self.messages(self._cell(record, "messages")))
            )
        }

    def _with_system(self, record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
        system = self._string(record, "system")
        if system.strip() and not (turns and turns[0]["role"] == "system"):
            return [turn("system", system), *turns]
        return turns

    def _checked_chat(self, turns: list[Message]) -> list[Message]:
        """Check that there is something to answer and an answer; leave out turns after the last answer."""
        answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not answers:
            raise UnusableError(NO_ANSWER)
        if any(not turns[index]["content"].strip() and "tool_calls" not in turns[index] for index in answers):
            raise UnusableError("empty answer")
        if not any(turn["content"].strip() for turn in turns if turn["role"] not in ("assistant", "system")):
            raise UnusableError("empty prompt")
        if answers[-1] + 1 < len(turns):
            self.changes["conversations cut after their last answer"] += 1
        return turns[: answers[-1] + 1]

    def _pair_row(self, record: Mapping[str, Any]) -> Row:
        prompt = self._cell(record, "messages" if "messages" in self._columns else "prompt")
        chosen, rejected = self._cell(record, "chosen"), self._cell(record, "rejected")
        if not any(isinstance(v, Mapping) or is_chat(v) for v in (prompt, chosen, rejected)):
            return self._string_pair(record)
        better, worse = (
            self.answer_turns(chosen, "empty chosen answer"),
            self.answer_turns(rejected, "empty rejected answer"),
        )
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
            turns = [turn("user", self._prompt(record))]
        return self._message_pair(record, turns, better, worse)

    def _string_pair(self, record: Mapping[str, Any]) -> Row:
        question = self._prompt(record)
        chosen = filled(self._string(record, "chosen"), "empty chosen answer")
        rejected = filled(self._string(record, "rejected"), "empty rejected answer")
        if not self._as_messages:
            return {"prompt": question, "chosen": chosen, "rejected": rejected}
        turns = self._with_system(record, [turn("user", question)])
        answers = {"chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
        return {"prompt": turns, **answers}

    def _message_pair(
        self, record: Mapping[str, Any], turns: list[Message], better: list[Message], worse: list[Message]
    ) -> Row:
        for answer, name in ((better, "chosen"), (worse, "rejected")):
            if not answer or answer[-1]["role"] != "assistant":
                raise UnusableError(f"{name} does not end with an answer of the assistant")
            filled(answer[-1]["content"], f"empty {name} answer")
        if not any(turn["content"].strip() for turn in turns if turn["role"] != "system"):
            raise UnusableError("empty prompt")
        return {"prompt": self._with_system(record, turns), "chosen": better, "rejected": worse}

    def _label_row(self, record: Mapping[str, Any]) -> Row:
        label = self._label(record)
        row = self._demo_row(record)
        if "messages" not in row:
            return {**row, "label": label}
        prompt = before_last_answer(row["messages"])
        return {"prompt": prompt, "completion": row["messages"][len(prompt) :], "label": label}

    def _label(self, record: Mapping[str, Any]) -> bool:
        value = self._cell(record, "label")
        if kind_of(value) == "none" or value == "":
            raise UnusableError("no label")
        label = as_label(value)
        if label is None:
            column = self._columns["label"]
            raise DataError(
                f"The label column '{column}' holds {shortened(value, 30)!r}, which is neither good nor bad.",
                f"Write {SHOWN_LABELS}; of a rating make one first: row['label'] = row['{column}'] >= 4.",
            )
        return label

    def _prompt_row(self, record: Mapping[str, Any]) -> Row:
        row: Row = {"prompt": self._asked(record)}
        if ANSWER in self._columns:
            answer = self._string(record, ANSWER)
            row[ANSWER] = answer if answer.strip() else None
            if row[ANSWER] is None:
                self.changes["prompts without an answer (None)"] += 1
        for key, value in record.items():
            if key not in self._columns.values():
                row[own_name(str(key), self._columns, record)] = self.plain(str(key), value)
        return row

    def _asked(self, record: Mapping[str, Any]) -> str | list[Message]:
        """Return the prompt: a text, or turns of which the last is not the assistant's."""
        cell = self._cell(record, "messages" if "messages" in self._columns else "prompt")
        if "messages" not in self._columns and not is_chat(cell):
            question = self._prompt(record)
            turns = [*self._history(record), turn("user", question)]
            return self._with_system(record, turns) if self._as_messages else question
        turns = self._with_system(record, self.messages(cell))
        if turns[-1]["role"] == "assistant":
            raise UnusableError("the prompt ends with an answer")
        filled("".join(turn["content"] for turn in turns if turn["role"] != "system"), "empty prompt")
        return turns


def own_name(column: str, columns: Mapping[str, str], others: Container[str]) -> str:
    """Return the name of a further column in a prompt row: its own, unless that means something else there."""
    if column not in _TAKEN or (column == ANSWER and ANSWER not in columns):
        return column
    name = f"{column}_"
    while name in others:
        name += "_"
    return name


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
