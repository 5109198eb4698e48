"""Checks of who speaks: system turns, unknown roles, tools, their calls and their results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ft_magic.data.report.finding import Finding
from ft_magic.data.report.finding import finding_of as finding
from ft_magic.data.row import MODEL_FIELDS
from ft_magic.template.probe import role_use
from ft_magic.template.script import tools_of

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

KNOWN_ROLES = frozenset({"system", "user", "assistant", "tool", "ipython", "developer"})
_SYSTEM = "audit.fix('system_role') puts the text before the first user turn"
_OTHER = "audit.fix('unknown_role') makes them user turns"


def role_findings(tokenizer: Tokenizer, data: Data) -> list[Finding | None]:
    """Return what is off with roles and tools; nothing for raw text and for models without a template."""
    if data.signal == "text" or tokenizer.chat is None:
        return []
    rows: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(data.rows):
        for role in {turn["role"] for turn in turns_of(row)}:
            rows[role].append(index)
    uses = {role: role_use(tokenizer.chat, role) for role in rows if role not in ("user", "assistant")}
    found = [_system(uses["system"], rows["system"])] if "system" in uses else []
    found += [_other(role, use, rows[role]) for role, use in uses.items() if role != "system"]
    return [*found, *_tool_findings(tokenizer, data)]


def turns_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every turn of a row that a model can be given; none for plain text."""
    return [turn for name in MODEL_FIELDS if isinstance(row.get(name), list) for turn in row[name]]


def _system(use: str, rows: list[int]) -> Finding | None:
    if use == "refused":
        return finding(
            "system_role", "broken", rows, "{n} with a system turn, which the template refuses.", _SYSTEM
        )
    if use == "dropped":
        message = "{n} with a system turn, which the template leaves out without a word."
        return finding("system_role", "broken", rows, message, _SYSTEM)
    merged = "{n} with a system turn, which the template writes into the first user turn."
    return finding("system_role", "info", rows if use == "merged" else [], merged)


def _other(role: str, use: str, rows: list[int]) -> Finding | None:
    how = {"refused": "which the template refuses", "dropped": "which the template leaves out"}
    if use in how:
        return finding("unknown_role", "broken", rows, f"{{n}} with turns of '{role}', {how[use]}.", _OTHER)
    strange = [] if role in KNOWN_ROLES else rows
    message = f"{{n}} with turns of '{role}': the template writes a header for it that the model never saw."
    return finding("unknown_role", "warning", strange, message, _OTHER)


def _tool_findings(tokenizer: Tokenizer, data: Data) -> list[Finding | None]:
    contract = tokenizer.contract
    given = [i for i, row in enumerate(data.rows) if tools_of(row) and not contract.shows_tools]
    called = [
        i
        for i, row in enumerate(data.rows)
        if not contract.shows_calls and any(turn.get("tool_calls") for turn in turns_of(row))
    ]
    fix = "audit.fix('tools') writes tools, calls and results as text"
    return [
        finding(
            "tools", "warning", given, "{n} with tools, which the template does not show to the model.", fix
        ),
        finding(
            "tools", "broken", called, "{n} with calls of tools, which the template does not write.", fix
        ),
    ]
