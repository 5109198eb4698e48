"""The audit's fixes by name: rows rewritten so that a check finds nothing, or left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.data.row import Row
from ft_magic.data.turns import turn
from ft_magic.errors import TemplateError, nearest
from ft_magic.template.checks import CHECKS
from ft_magic.template.markup import escaped, turns_in, unmarked, without_stop
from ft_magic.template.model_checks import REASONING
from ft_magic.template.probe import role_use
from ft_magic.template.script import content_of, tools_of

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

_ANSWERS = ("completion", "chosen", "rejected")
_TEXTS = ("text", "prompt", *_ANSWERS)
Rewrite = Callable[["Tokenizer", Row], list[Row]]


def rewritten(tokenizer: Tokenizer, data: Data, name: str) -> Data:
    """Return the data with every row rewritten by the named fix; the lineage says how many changed.

    Raises:
        TemplateError: there is no such fix.
    """
    if name not in REWRITES:
        known = (*REWRITES, *REMOVED)
        check = f" The check '{name}' has none: it is not in the rows." if name in CHECKS else ""
        raise TemplateError(
            f"There is no fix '{name}'.{check or nearest(name, known)}", f"Fixes are: {', '.join(known)}."
        )
    rewrite, what = REWRITES[name]
    rows: list[Row] = []
    changed = 0
    for row in data.rows:
        made = rewrite(tokenizer, row)
        changed += made != [row]
        rows += made
    if not changed:
        return data
    note = f"template fix {name}: {changed} rows changed ({what})"
    if len(rows) != len(data):
        note += f", {len(data)} rows became {len(rows)}"
    return replace(data, rows=tuple(rows), lineage=(*data.lineage, note))


def _turns(row: Row, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Row:
    """Return the row with its conversation, or its prompt where that is one, changed."""
    key = "messages" if "messages" in row else "prompt"
    return {**row, key: change(row[key])} if isinstance(row.get(key), list) else row


def _texts(row: Row, change: Callable[[str, bool], str]) -> Row:
    """Return the row with every text changed; ``change`` is told whether it is an answer."""
    made = dict(row)
    for key in ("messages", *_TEXTS):
        value = row.get(key)
        if isinstance(value, str):
            made[key] = change(value, key in _ANSWERS)
        elif isinstance(value, list):
            made[key] = [
                {**said, "content": change(content_of(said), said["role"] == "assistant")} for said in value
            ]
    return made


def _no_system(tokenizer: Tokenizer, row: Row) -> list[Row]:
    if tokenizer.chat is None or role_use(tokenizer.chat, "system") not in ("refused", "dropped"):
        return [row]
    return [_turns(row, _system_into_user)]


def _system_into_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system = "\n\n".join(content_of(said) for said in messages if said["role"] == "system")
    rest = [said for said in messages if said["role"] != "system"]
    first = next((index for index, said in enumerate(rest) if said["role"] == "user"), None)
    if not system:
        return rest
    if first is None:
        return [turn("user", system), *rest]
    said = {**rest[first], "content": f"{system}\n\n{content_of(rest[first])}"}
    return [*rest[:first], said, *rest[first + 1 :]]


def _known_roles(tokenizer: Tokenizer, row: Row) -> list[Row]:
    chat = tokenizer.chat
    known = {"system", "user", "assistant"}

    def as_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for said in messages:
            keep = said["role"] in known or (
                said["role"] in ("tool", "ipython", "developer")
                and chat is not None
                and role_use(chat, said["role"]) not in ("refused", "dropped")
            )
            now = said if keep else turn("user", content_of(said))
            if not keep and made and made[-1]["role"] == "user":
                made[-1] = turn("user", f"{content_of(made[-1])}\n\n{now['content']}")
            else:
                made.append(now)
        return made

    return [_turns(row, as_user)]


def _tools_as_text(tokenizer: Tokenizer, row: Row) -> list[Row]:
    contract, tools = tokenizer.contract, tools_of(row)
    if tools and not contract.shows_tools:
        described = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        note = f"You may call these functions:\n{described}"
        row = {key: value for key, value in row.items() if key != "tools"}
        row = _turns(row, lambda messages: _with_system(messages, note))
    return [row if contract.shows_calls else _turns(row, _calls_as_text)]


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{content_of(messages[0])}\n\n{text}"}, *messages[1:]]
    return [turn("system", text), *messages]


def _calls_as_text(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for said in messages:
        calls = [call.get("function", call) for call in said.get("tool_calls") or ()]
        written = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
        rest = {key: value for key, value in said.items() if key != "tool_calls"}
        text = "\n".join(part for part in (content_of(said), *written) if part)
        made.append({**rest, "content": text} if calls else said)
    return made


def _row_each_answer(_tokenizer: Tokenizer, row: Row) -> list[Row]:
    """Return a row for each answer, the earlier ones read and not trained."""
    messages = row.get("messages", ())
    ends = [i for i, said in enumerate(messages) if said["role"] == "assistant" and said.get("train", True)]
    if len(ends) < 2:
        return [row]
    return [{**row, "messages": [*map(_read_only, messages[:end]), messages[end]]} for end in ends]


def _read_only(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "train": False} if said["role"] == "assistant" else said


def _escaped(tokenizer: Tokenizer, row: Row) -> list[Row]:
    return [_texts(row, lambda t, answer: escaped(tokenizer, without_stop(tokenizer, t) if answer else t))]


def _own_markup(tokenizer: Tokenizer, row: Row) -> list[Row]:
    if "text" in row:  # what a text is meant to teach is the user's choice
        return [row]
    prompt = row.get("prompt")
    said = turns_in(tokenizer, prompt) if isinstance(prompt, str) and tokenizer.chat is not None else []
    if not said:
        return [_texts(row, lambda text, _answer: unmarked(tokenizer, text))]
    begun = content_of(said.pop()) if said[-1]["role"] == "assistant" else ""
    answers = {
        key: [turn("assistant", f"{begun} {unmarked(tokenizer, row[key])}".strip())]
        for key in _ANSWERS
        if isinstance(row.get(key), str)
    }
    return [{**row, "prompt": said, **answers}]


def _spaces(tokenizer: Tokenizer, row: Row) -> list[Row]:
    if isinstance(row.get("prompt"), str) and tokenizer.chat is None:
        prompt = row["prompt"].rstrip(" \t")
        gone = row["prompt"][len(prompt) :]
        sides = {
            key: " " + row[key].lstrip(" \t") for key in _ANSWERS if gone and isinstance(row.get(key), str)
        }
        return [{**row, "prompt": prompt, **sides}]
    return [_texts(row, lambda text, answer: text.lstrip() if answer else text)]


def _with_reasoning(tokenizer: Tokenizer, row: Row) -> list[Row]:
    if REASONING not in tokenizer.contract.prompt_end:
        return [row]
    block = f"{REASONING}\n\n</think>\n\n"
    return [_texts(row, lambda text, answer: block + text if answer and REASONING not in text else text)]


def _one_bos(tokenizer: Tokenizer, row: Row) -> list[Row]:
    bos = tokenizer.named_tokens.get("bos_token")
    if not bos:
        return [row]
    return [_texts(row, lambda text, _answer: re.sub(rf"\A(?:\s*{re.escape(bos)})+", "", text))]


# name of a check -> how its rows are rewritten, and in words
REWRITES: Mapping[str, tuple[Rewrite, str]] = MappingProxyType(
    {
        "system_role": (_no_system, "system text put before the first user turn"),
        "unknown_role": (_known_roles, "turns of unknown roles made user turns"),
        "tools": (_tools_as_text, "tools and their calls written as text"),
        "generation_prompt": (_with_reasoning, "an empty reasoning block before answers without one"),
        "last_only": (_row_each_answer, "a row for each answer"),
        "reasoning": (_row_each_answer, "a row for each answer"),
        "foreign_markup": (_own_markup, "markup of other families made turns or taken out"),
        "special_text": (_escaped, "text of special tokens broken, stops at the end of answers taken out"),
        "inexact": (_spaces, "white space between prompt and answer moved"),
        "double_bos": (_one_bos, "bos tokens at the beginning taken out"),
    }
)
# Checks whose rows are left out.
REMOVED = ("not_rendered", "nothing_trained", "truncated", "stop_cut")
