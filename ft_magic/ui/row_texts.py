"""The texts of a row, one by one, so that a person can read and change them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ft_magic.data.row import Row


@dataclass(frozen=True)
class Piece:
    """One value of a row.

    Attributes:
        path: keys and places that lead to it.
        label: what it is, for a person.
        text: its text; JSON where it is no text.
        editable: whether it is text that may be changed.
    """

    path: tuple[str | int, ...]
    label: str
    text: str
    editable: bool


def texts_of(row: Row) -> list[Piece]:
    """Return the values of a row in their order, the turns of conversations one by one."""
    found: list[Piece] = []
    for key, value in row.items():
        found += _turns(key, value) if _is_conversation(value) else [_piece((key,), key, value)]
    return found


def with_texts(row: Row, texts: Sequence[str]) -> Row:
    """Return the row with other texts in its editable pieces, in the order of ``texts_of``.

    Raises:
        ValueError: there are more or fewer texts than pieces.
    """
    changed = copy.deepcopy(row)
    editable = [piece for piece in texts_of(row) if piece.editable]
    for piece, text in zip(editable, texts, strict=True):
        place: Any = changed
        for step in piece.path[:-1]:
            place = place[step]
        place[piece.path[-1]] = text
    return changed


def _turns(key: str, turns: Sequence[dict[str, Any]]) -> Iterator[Piece]:
    prefix = "" if key == "messages" else f"{key}, "
    for place, turn in enumerate(turns):
        role = f"{prefix}{turn['role']}"
        yield _piece((key, place, "content"), role, turn.get("content"))
        more = {name: held for name, held in turn.items() if name not in ("role", "content")}
        if more:
            yield Piece((key, place), f"{role}, further", _json(more), editable=False)


def _piece(path: tuple[str | int, ...], label: str, value: Any) -> Piece:
    if isinstance(value, str):
        return Piece(path, label, value, editable=True)
    return Piece(path, label, _json(value), editable=False)


def _is_conversation(value: Any) -> bool:
    """Tell a list of turns from a list of tools or of anything else."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and "role" in turn for turn in value)
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
