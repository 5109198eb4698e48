"""Which shape has this data, and which column plays which role? One table, first fit wins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ft_magic.axes import find_signal
from ft_magic.data.row import shortened
from ft_magic.errors import DataError, nearest

_SAMPLE_ROWS = 200  # columns and kinds of values are read from this many first rows
_NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})

_CHATS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
_SYSTEM = ("system", "system_prompt", "system_message")
_PROMPTS = ("prompt", "question", "instruction", "query", "input", "problem", "request", "user", "human")
_ANSWERS = ("answer", "response", "output", "completion", "reply", "solution", "assistant", "target")
_CHOSEN = ("chosen", "preferred", "accepted", "response_chosen", "chosen_response", "answer_chosen")
_REJECTED = ("rejected", "dispreferred", "response_rejected", "rejected_response", "answer_rejected")
_TEXT = ("text", "content", "document", "page_content", "raw_text", "body")
_LABELS = ("label", "kto_tag", "thumbs_up")


@dataclass(frozen=True)
class Shape:
    """A way to write training data.

    Attributes:
        name: what people call it.
        signal: name of the signal it carries.
        required: role -> column names that may play it, best guess first.
        optional: the same for roles that may be absent.
        kinds: role -> kind of value it must hold (``messages`` or ``sharegpt``), where names do not tell.
    """

    name: str
    signal: str
    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE)
    kinds: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role this shape knows."""
        return (*self.required, *self.optional)


SHAPES = (
    Shape(
        "sharegpt pairs",
        "pair",
        {"messages": _CHATS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"messages": "sharegpt"},
    ),
    Shape(
        "messages pairs",
        "pair",
        {"messages": _CHATS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"messages": "messages"},
    ),
    Shape(
        "prompt, chosen and rejected",
        "pair",
        {"prompt": _PROMPTS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"input": ("input", "context"), "system": _SYSTEM},
    ),
    Shape(
        "chosen and rejected conversations",
        "pair",
        {"chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"chosen": "messages"},
    ),
    Shape("messages", "demo", {"messages": _CHATS}, {"system": _SYSTEM}, {"messages": "messages"}),
    Shape("sharegpt", "demo", {"messages": _CHATS}, {"system": _SYSTEM}, {"messages": "sharegpt"}),
    Shape(
        "prompt and completion",
        "demo",
        {"prompt": ("prompt",), "completion": ("completion", "response", "answer", "output")},
        {"system": _SYSTEM},
    ),
    Shape(
        "alpaca",
        "demo",
        {"prompt": ("instruction",), "completion": ("output", "response", "answer", "completion")},
        {"input": ("input", "context"), "system": _SYSTEM, "history": ("history",)},
    ),
    Shape(
        "question and answer",
        "demo",
        {"prompt": _PROMPTS, "completion": _ANSWERS},
        {"input": ("context",), "system": _SYSTEM},
    ),
    Shape("text", "text", {"text": _TEXT}),
)
ROLES = tuple(dict.fromkeys(role for shape in SHAPES for role in shape.roles))


@dataclass(frozen=True)
class Detected:
    """The shape found and its columns (role -> source column)."""

    shape: Shape
    columns: Mapping[str, str]
    unused: tuple[str, ...]


def detect(
    records: list[Any], source: str, signal: str | None = None, columns: Mapping[str, str] | None = None
) -> Detected:
    """Find the shape of records; what the user named is taken, the rest is guessed from names and values.

    Raises:
        DataError: no shape fits, a named column does not exist, or the guess would be dangerous.
    """
    if signal is not None:
        find_signal(signal)
    samples = _samples(records)
    pinned = _checked_columns(columns or {}, samples)
    for shape in SHAPES:
        if signal not in (None, shape.signal):
            continue
        found = _assign(shape, samples, pinned)
        if found is not None:
            unused = tuple(name for name in samples if name not in found.values())
            if signal is None and shape.signal == "demo":
                _refuse_labels(records, unused, source)
            return Detected(shape, found, unused)
    raise _unknown_shape(samples, source, signal, pinned)


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
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if hasattr(value, "tolist") and not isinstance(value, str):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else None


def _samples(records: Iterable[Any]) -> dict[str, Any]:
    """Return each column with its first value that is not missing, in order of appearance."""
    samples: dict[str, Any] = {}
    for index, record in enumerate(records):
        if index >= _SAMPLE_ROWS:
            break
        for key, value in record.items() if isinstance(record, Mapping) else ():
            if kind_of(samples.get(str(key))) == "none":
                samples[str(key)] = value
    return samples


def _checked_columns(columns: Mapping[str, str], samples: Mapping[str, Any]) -> dict[str, str]:
    for role, column in columns.items():
        if role not in ROLES:
            raise DataError(
                f"columns names the role '{role}', which does not exist.{nearest(role, ROLES)}",
                f"Roles are: {', '.join(ROLES)}.",
            )
        if column not in samples:
            raise DataError(
                f"columns maps {role} to '{column}', but there is no such column.{nearest(column, samples)}",
                f"The columns are: {', '.join(samples)}.",
            )
    return dict(columns)


def _assign(shape: Shape, samples: Mapping[str, Any], pinned: Mapping[str, str]) -> dict[str, str] | None:
    """Return role -> column where every required role is played, else None."""
    if not set(pinned) <= set(shape.roles):
        return None
    found = dict(pinned)
    # Someone who names columns means these; optional ones are guessed only where nothing was named.
    guessed = dict(shape.required) if pinned else {**shape.required, **shape.optional}
    by_lower = {name.lower().strip(): name for name in reversed(list(samples))}
    for role, names in guessed.items():
        if role in found:
            continue
        free = (by_lower[name] for name in names if name in by_lower and by_lower[name] not in found.values())
        column = next((name for name in free if _holds(shape, role, samples[name])), None)
        if column is not None:
            found[role] = column
        elif role in shape.required:
            return None
    return found if all(_holds(shape, role, samples[column]) for role, column in found.items()) else None


def _holds(shape: Shape, role: str, value: Any) -> bool:
    kind = shape.kinds.get(role)
    # Chat columns are told from plain text by their values; both chat shapes go through the same reader.
    return kind is None or kind_of(value) == kind


def _refuse_labels(records: list[Any], unused: tuple[str, ...], source: str) -> None:
    """Stop where a column marks answers as bad: imitating those would teach the opposite of what is meant."""
    for name in unused:
        if name.lower() not in _LABELS:
            continue
        values = [record.get(name) for record in records if isinstance(record, Mapping)]
        bad = sum(value is False for value in values)
        if bad and all(isinstance(value, bool) for value in values if value is not None):
            raise DataError(
                f"{source}: the column '{name}' marks {bad} of {len(values)} answers as bad (false).",
                f"Keep the good ones ([r for r in rows if r['{name}']]), or imitate all: signal='demo'.",
            )


def _unknown_shape(
    samples: Mapping[str, Any], source: str, signal: str | None, pinned: Mapping[str, str]
) -> DataError:
    seen = [f"  {name}: {shortened(value)}" for name, value in samples.items()] or ["  (no columns)"]
    wanted = f" for signal '{signal}'" if signal else ""
    given = f" with {dict(pinned)}" if pinned else ""
    names = [*samples, "...", "..."]
    ways = {
        "text": f'columns={{"text": "{names[0]}"}}',
        "pair": f'columns={{"prompt": "{names[0]}", "chosen": "{names[1]}", "rejected": "{names[2]}"}}',
    }
    demo = f'columns={{"prompt": "{names[0]}", "completion": "{names[1]}"}}'
    return DataError(
        f"{source}: these columns fit no known shape{wanted}{given}.",
        "\n".join(
            [
                "Columns, with a first value:",
                *seen,
                f"Say which is which, for example {ways.get(signal or '', demo)}.",
            ]
        ),
    )
