"""Turns rows of one signal into rows of another; one function a pair of signals, one table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.axes import find_signal
from ft_magic.data.row import ANSWER, Message, Row, answer_text, before_last_answer, canonical
from ft_magic.data.turns import turn
from ft_magic.errors import DataError

if TYPE_CHECKING:
    from ft_magic.data.data import Data


def converted(data: Data, signal: str) -> Data:
    """Return the rows as another signal; the lineage says how and how many.

    Raises:
        DataError: there is no such conversion, or no row would be left.
    """
    ways = find_signal(data.signal).converts_to
    if signal not in ways:
        exist = ", ".join(ways)
        raise DataError(
            f"{data.name} carries '{data.signal}' rows, which cannot become '{signal}' rows.",
            f"They can become: {exist}." if exist else "Load data that carries them.",
        )
    make = CONVERSIONS[data.signal, signal]
    rows = tuple(_with_tools(made, row) for row in data.rows for made in make(row))
    if not rows:
        raise DataError(
            f"None of {len(data)} '{data.signal}' rows of {data.name} can become a '{signal}' row "
            f"({ways[signal]}).",
            "Look at the rows first.",
        )
    note = f"{len(data)} {data.signal} rows became {len(rows)} {signal} rows: {ways[signal]}"
    if signal == "prompt":
        rows = _with_equal_tools(rows)
        note += f"; {_repeats(rows)} of {len(rows)} prompts repeat an earlier one"
        hidden = sum(row[ANSWER] is None for row in rows) if data.signal == "demo" else 0
        if hidden:
            note += f"; {hidden} have no answer: theirs is a tool call alone, or marked as not trained"
    return replace(data, rows=rows, signal=signal, lineage=(*data.lineage, note))


def _with_tools(made: Row, row: Row) -> Row:
    """Return a row with the tools of the one it was made of: prompt and answers still mention them."""
    return {**made, "tools": row["tools"]} if "tools" in row else made


def _with_equal_tools(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Give every prompt row the column, None where there are no tools: reward functions get columns."""
    if not any("tools" in row for row in rows):
        return rows
    return tuple({**row, "tools": row.get("tools")} for row in rows)


def _repeats(rows: tuple[Row, ...]) -> int:
    return len(rows) - len({canonical({"prompt": row["prompt"]}) for row in rows})


def _prompt_of_demo(row: Row) -> Row:
    if "messages" not in row:
        return {"prompt": row["prompt"], ANSWER: answer_text(row)}
    prompt = before_last_answer(row["messages"])
    answers = row["messages"][len(prompt) :]
    # What is not to be imitated is no known good answer either; a tool call alone has no text.
    known = all(answer.get("train", True) for answer in answers)
    return {"prompt": prompt, ANSWER: (answer_text({"messages": answers}) or None) if known else None}


def _prompt_of_pair(row: Row) -> Row:
    return {"prompt": row["prompt"], ANSWER: answer_text(row, "chosen")}


def _prompt_of_label(row: Row) -> Row:
    return {"prompt": row["prompt"], ANSWER: answer_text(row) if row["label"] else None}


def _demo(prompt: Any, answer: Any) -> Row:
    """Return a demonstration: of two texts a prompt and completion, else a conversation."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return {"prompt": prompt, "completion": answer}
    return {"messages": [*as_turns(prompt, "user"), *as_turns(answer, "assistant")]}


def as_turns(value: Any, role: str) -> list[Message]:
    """Return a text as a turn of this role, turns as they are."""
    return [turn(role, value)] if isinstance(value, str) else list(value)


def _judged(prompt: Any, answer: Any, label: bool) -> Row:
    if isinstance(prompt, str) and isinstance(answer, str):
        return {"prompt": prompt, "completion": answer, "label": label}
    return {
        "prompt": as_turns(prompt, "user"),
        "completion": as_turns(answer, "assistant"),
        "label": label,
    }


def _labels_of_pair(row: Row) -> list[Row]:
    return [_judged(row["prompt"], row["chosen"], True), _judged(row["prompt"], row["rejected"], False)]


# (from, to) -> the rows one row becomes; the same pairs as ``Signal.converts_to``
CONVERSIONS: Mapping[tuple[str, str], Callable[[Row], list[Row]]] = MappingProxyType(
    {
        ("demo", "prompt"): lambda row: [_prompt_of_demo(row)],
        ("pair", "label"): _labels_of_pair,
        ("pair", "demo"): lambda row: [_demo(row["prompt"], row["chosen"])],
        ("pair", "prompt"): lambda row: [_prompt_of_pair(row)],
        ("label", "demo"): lambda row: [_demo(row["prompt"], row["completion"])] if row["label"] else [],
        ("label", "prompt"): lambda row: [_prompt_of_label(row)],
    }
)
