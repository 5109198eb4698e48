"""How a row of each signal is written in a request and read from a reply: labelled lines, or JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ft_magic.data.row import ANSWER, Row, before_first_answer, prompt_text
from ft_magic.errors import SpecError

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """One field of a row.

    Attributes:
        key: of the row.
        label: in requests.
        others: labels and JSON keys that models write instead, in small letters.
    """

    key: str
    label: str
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Everything it may be called in a reply, in small letters."""
        return (self.label.lower(), self.key, *self.others)


@dataclass(frozen=True)
class Form:
    """The fields of a row, and what the row is.

    Attributes:
        signal: of the rows.
        parts: fields in order; the first begins a new row.
        what: one row, in words for the model.
        from_passage: the same, made from a passage; empty where passages are no use.
    """

    signal: str
    parts: tuple[Part, ...]
    what: str
    from_passage: str = ""

    def text(self, row: Mapping[str, str], number: int | None = None) -> str:
        """Return a row as labelled lines: ``Request 3: ...``, or without a number."""
        mark = "" if number is None else f" {number}"
        return "\n".join(f"{part.label}{mark}: {row[part.key].strip()}" for part in self.parts)

    def empty(self, number: int | None = None) -> str:
        """Return the form to fill in."""
        return self.text({part.key: "..." for part in self.parts}, number)


_REQUEST = Part("prompt", "Request", ("question", "instruction", "user", "q", "input", "task", "query"))
_ANSWER = Part("completion", "Answer", ("response", "output", "assistant", "a", "reply", "solution"))
_GOOD = Part("chosen", "Good answer", ("better answer", "chosen answer", "good"))
_BAD = Part("rejected", "Bad answer", ("worse answer", "rejected answer", "bad"))
_KNOWN = replace(_ANSWER, key=ANSWER)
# signal -> its form
FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "demo": Form(
            "demo",
            (_REQUEST, _ANSWER),
            "a request and the right answer to it",
            "a question that the passage answers, and its answer",
        ),
        "prompt": Form("prompt", (_REQUEST,), "a request", "a question that the passage answers"),
        "pair": Form(
            "pair",
            (_REQUEST, _GOOD, _BAD),
            "a request, a good answer to it, and a bad one that a careless writer might give",
            "a question that the passage answers, its answer, and a wrong answer",
        ),
        "text": Form("text", (Part("text", "Text", ("example", "document")),), "a text"),
    }
)


def check_signal(signal: str) -> None:
    """Refuse a signal whose rows cannot be made.

    Raises:
        SpecError: it has no form.
    """
    if signal not in FORMS:
        raise SpecError(
            f"signal '{signal}' cannot be synthesised.",
            f"Signals are: {', '.join(FORMS)}; judged answers come from ft.judge.",
        )


def form_of(signal: str, seeds: tuple[Row, ...], *, passages: bool) -> Form:
    """Return the form of a signal's rows; prompts get an answer where the seeds have one.

    Raises:
        SpecError: rows of this signal cannot be made from documents.
    """
    form = FORMS[signal]
    if passages and not form.from_passage:
        raise SpecError(
            f"signal '{signal}' cannot be made from documents: they are such rows already.",
            "Read them with ft.load_data(documents), or choose signal='demo'.",
        )
    if signal == "prompt" and seeds and all(row.get(ANSWER) is not None for row in seeds):
        return replace(form, parts=(_REQUEST, _KNOWN))
    return form


def as_written(row: Row, form: Form) -> dict[str, str]:
    """Return a row's fields as text; of a conversation the turns up to and with the first answer."""
    if "messages" in row:
        before = before_first_answer(row["messages"])
        answer = row["messages"][len(before)]["content"] if len(before) < len(row["messages"]) else ""
        return {"prompt": prompt_text(row), "completion": str(answer)}
    return {part.key: _words(row.get(part.key)) for part in form.parts}


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(turn["content"]) for turn in value)
    return "" if value is None else str(value)


def rows_in(reply: str, form: Form, *, whole: bool = True) -> tuple[list[Row], int]:
    """Return the rows a reply holds, and how many pieces of it could not be read.

    Args:
        reply: what the model wrote: labelled lines, JSON lines, or a JSON list.
        form: of the rows.
        whole: whether the model came to its end; of a reply that was cut off the last row does not count.
    """
    text = _THOUGHTS.sub("", reply).strip()
    pieces = list(_json_pieces(text, form)) or list(_labelled(text, form))
    if not whole and pieces:
        pieces[-1] = {}
    rows = [
        {part.key: piece[part.key] for part in form.parts}
        for piece in pieces
        if all(piece.get(part.key, "").strip() for part in form.parts)
    ]
    unread = len(pieces) - len(rows) if pieces else 1
    return rows, unread


def _labelled(text: str, form: Form) -> Iterator[dict[str, str]]:
    """Yield what stands behind labels at the beginning of lines."""
    key_of = {name: part.key for part in form.parts for name in part.names}
    names = "|".join(sorted(map(re.escape, key_of), key=len, reverse=True))
    label = re.compile(
        rf"^[\s>*#_(\[-]*(?:\d+\s*[.)\]:]\s*)?[*_]*({names})[*_]*\s*\#?\d*\s*[)\]]?[*_]*\s*:[*_]*[ \t]*",
        re.IGNORECASE | re.MULTILINE,
    )
    found = list(label.finditer(text))
    row: dict[str, str] = {}
    for match, following in itertools.zip_longest(found, found[1:]):
        key = key_of[match[1].lower()]
        if key == form.parts[0].key and row:
            yield row
            row = {}
        value = text[match.end() : following.start() if following else len(text)].strip()
        if key in row:  # the same label again, in place of the next row's first: not to be guessed
            yield {}
        row[key] = re.sub(r"\n+\s*(?:-{3,}|\*{3,}|\d+[.)])\s*\Z", "", value)
    if row:
        yield row


def _json_pieces(text: str, form: Form) -> Iterator[dict[str, str]]:
    """Yield the objects of a JSON list, of JSON lines, or of one object that holds a list."""
    key_of = {name: part.key for part in form.parts for name in part.names}
    fenced = _FENCE.search(text)
    for value in _objects((fenced[1] if fenced else text).strip()):
        named = {str(name).lower().replace("_", " "): held for name, held in value.items()}
        row = {key_of[name]: held for name, held in named.items() if name in key_of and isinstance(held, str)}
        yield row


def _objects(text: str) -> Iterator[dict[str, Any]]:
    if not re.match(r"[\[{]", text):
        return
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            return
        lists = (
            [part for part in value.values() if isinstance(part, list)]
            if isinstance(value, dict)
            else [value]
        )
        found = lists[0] if lists and isinstance(lists[0], list) else [value]
        yield from (part for part in found if isinstance(part, dict))
        place += len(text[place:]) - len(text[place:].lstrip(" \n\r\t,"))
