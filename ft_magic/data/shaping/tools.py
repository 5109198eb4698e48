"""Tools a conversation may call, and the calls themselves, in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ft_magic.data.row import json_value


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """Return a cell's tools as function objects in OpenAI's form; None where it holds something else.

    A list, an object, or JSON text of either; bare functions (name, description, parameters) are wrapped. Tables
    give every object all fields of its neighbours, empty ones as None: these are left out.
    """
    written = isinstance(value, str)
    if written:
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError:
            return None
    if value is None:
        return []
    if hasattr(value, "tolist"):
        value = value.tolist()
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple):
        return None
    functions = [_function(item) for item in items]
    if any(function is None for function in functions):
        return None
    made = [json_value(function) for function in functions]
    return [{"type": "function", "function": tool if written else _without_gaps(tool)} for tool in made]


def call_of(value: Any) -> dict[str, Any] | None:
    """Return a function call in OpenAI's form with its arguments as a dict; None where it is none.

    Takes ``{"name", "arguments"}`` or ``{"function": {...}}``, whole or its arguments as JSON text.
    """
    value = _parsed(value)
    function = _function(value)
    if function is None:
        return None
    arguments = _parsed(function.get("arguments", function.get("parameters")))
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, Mapping):
        return None
    call = {"type": "function", "function": {"name": function["name"], "arguments": json_value(arguments)}}
    return call if value.get("id") is None else {"id": str(value["id"]), **call}


def calls_of(value: Any) -> list[dict[str, Any]] | None:
    """Return one call or a list of them; None where any is none."""
    value = _parsed(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    items = value if isinstance(value, list | tuple) else [value]
    calls = [call_of(item) for item in items]
    return [call for call in calls if call is not None] if all(calls) else None


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _function(value: Any) -> Mapping[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function")
    found = inner if isinstance(inner, Mapping) else value
    return found if isinstance(found.get("name"), str) else None


def _without_gaps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_gaps(part) for key, part in value.items() if part is not None}
    return [_without_gaps(part) for part in value] if isinstance(value, list) else value
