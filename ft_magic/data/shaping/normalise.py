"""Turns one record of a known shape into normalised rows, or says why it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from ft_magic.data.labels import SHOWN_LABELS, as_label
from ft_magic.data.row import ANSWER, MODEL_FIELDS, Message, Row, before_last_answer, shortened
from ft_magic.data.shaping.cells import UnusableError, filled
from ft_magic.data.shaping.detect import Detected
from ft_magic.data.shaping.pairs import Pairs
from ft_magic.data.shaping.trees import Node, best_path
from ft_magic.data.turns import as_list, is_chat, kind_of, turn
from ft_magic.errors import DataError

NO_ANSWER = "no assistant turn"
# Names that mean something else in a row or to a reward function; such a column gets a "_" at its end.
_TAKEN = frozenset(
    (*MODEL_FIELDS, ANSWER, "tools", "prompts", "completions", "completion_ids", "prompt_ids", "prompt_text")
)


class Reader(Pairs):
    """Normalises records of one shape and counts what it changes on the way.

    Args:
        detected: shape and columns of the records.
    """

    def __init__(self, detected: Detected) -> None:
        super().__init__(detected)
        readers: Mapping[str, Callable[[Mapping[str, Any]], Row]] = {
            "text": self._text_row,
            "demo": self._demo_row,
            "pair": self._pair_row,
            "label": self._label_row,
            "prompt": self._prompt_row,
        }
        self._signal = detected.shape.signal
        self._read = readers[self._signal]
        self._of_trees = "tree" in detected.columns
        self._with_tools = "tools" in detected.columns

    def rows(self, record: Any) -> list[Row]:
        """Return the normalised rows of a record: one, of a tree as many as it holds.

        Raises:
            UnusableError: with the reason.
        """
        if not isinstance(record, Mapping):
            raise UnusableError(f"not an object but {shortened(record, 30)}")
        if self._of_trees:
            return self._tree_rows(self._cell(record, "tree"))
        row = self._read(record)
        if self._with_tools:
            tools = self._tools(record)
            if tools:
                row["tools"] = tools
        return [row]

    def _tree_rows(self, root: Any) -> list[Row]:
        if not isinstance(root, Node):
            raise UnusableError("no tree of messages")
        if self._signal == "pair":
            return self._tree_pairs(root)
        return [{"messages": self._checked_chat(self.messages(best_path(root)))}]

    def _text_row(self, record: Mapping[str, Any]) -> Row:
        return {"text": filled(self._string(record, "text"), "empty text")}

    def _demo_row(self, record: Mapping[str, Any]) -> Row:
        if "segments" in self._columns:
            return self._segment_row(record)
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

    def _chat_row(self, record: Mapping[str, Any]) -> Row:
        turns = self._with_system(record, self.messages(self._cell(record, "messages")))
        return {"messages": self._checked_chat(turns)}

    def _segment_row(self, record: Mapping[str, Any]) -> Row:
        """Read segments of text, each trained or not, as turns of the assistant and the user."""
        turns: list[Message] = []
        for segment in as_list(self._cell(record, "segments")) or []:
            trained = as_label(segment.get("label")) if isinstance(segment, Mapping) else None
            if trained is None:
                raise UnusableError("a segment without text and label")
            role, text = ("assistant" if trained else "user"), self.text(segment.get("text"))
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += text
            else:
                turns.append(turn(role, text))
        if turns and turns[0]["role"] == "assistant":
            raise UnusableError("the first segment is trained: nothing is asked")
        return {"messages": self._checked_chat(turns)}

    def _checked_chat(self, turns: list[Message]) -> list[Message]:
        """Check that there is something to answer and an answer; leave out turns after the last answer."""
        answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not answers:
            raise UnusableError(NO_ANSWER)
        if any(not turns[index]["content"].strip() and "tool_calls" not in turns[index] for index in answers):
            raise UnusableError("empty answer")
        if not any(turn["content"].strip() for turn in turns if turn["role"] not in ("assistant", "system")):
            raise UnusableError("empty prompt")
        if self._signal == "demo" and not any(turns[index].get("train", True) for index in answers):
            raise UnusableError("no answer to train on: all are marked as not trained")
        if answers[-1] + 1 < len(turns):
            self.changes["conversations cut after their last answer"] += 1
        return turns[: answers[-1] + 1]

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
        label = as_label(value, self._signed)
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
