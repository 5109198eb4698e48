"""The YAML of a cell's body and of a spec file, read the way a person means it.

YAML 1.1 reads ``2e-4`` as text, ``no`` as False, ``1:30`` as 90 and ``2026-11-21`` as a date. Here a number
is a number, ``true``, ``false`` and ``null`` are themselves, ``$name`` is a variable, all else is text.
Keys given twice, tags and anchors are errors: nothing is read in a way the writer does not see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ft_magic.errors import SpecError, nearest

_TAG = "tag:yaml.org,2002:"
_REFERENCE_TAG = "!reference"
_REFERENCE = re.compile(r"\$([^\W\d]\w*)")
_PLAIN = re.compile(r"(?P<key>[A-Za-z_]\w*)\s*:(?P<space>\s*)(?P<value>\S.*)")
_EQUALS = re.compile(r"(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>\S.*)")
# PyYAML points to where reading failed; for these contexts the cause is where that construct began.
_BEGINS_EARLIER = (
    "while scanning a simple key", "while scanning a quoted scalar", "while parsing a flow mapping",
    "while parsing a flow sequence",
)  # fmt: skip
_CURES = {
    "while scanning a double-quoted scalar": "A backslash is special in double quotes: use single quotes.",
    "while scanning a quoted scalar": "Close the quote, and write a quote inside quotes twice.",
    "while parsing a flow sequence": "Close the bracket: [a, b].",
}


@dataclass(frozen=True)
class Reference:
    """A Python variable named by ``$name``, not looked up yet."""

    name: str

    def __str__(self) -> str:
        return f"${self.name}"


class _Loader(yaml.SafeLoader):
    """SafeLoader with its own idea of what unquoted words are."""

    # Replaced as a whole, so that nothing of YAML 1.1's table is inherited.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own shape

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases, anchors and tags: what a value is must be seen where it stands."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave the parser untyped
        tag = getattr(event, "tag", None)
        if getattr(event, "anchor", None) or tag not in {None, "!"}:
            raise yaml.MarkedYAMLError(
                problem="anchors and tags are not read here", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are no text or are given twice."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key}' is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _resolve_as(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), list(first))


_resolve_as(f"{_TAG}bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve_as(f"{_TAG}int", r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)", "-+0123456789")
_resolve_as(
    f"{_TAG}float",
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
    "-+.0123456789",
)
# The empty first character stands for an empty value.
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_resolve_as(_REFERENCE_TAG, _REFERENCE.pattern, "$")
_Loader.add_constructor(_REFERENCE_TAG, lambda _loader, node: Reference(node.value[1:]))


def load(text: str, *, where: str = "body") -> dict[str, Any]:
    """Read ``key: value`` lines; ``$name`` values come back as ``Reference``.

    Args:
        text: the lines; empty, or nothing but comments, is an empty mapping.
        where: what the text is, for messages: ``body``, or a file's path.

    Raises:
        SpecError: a line that cannot be read, with its number and text; a key given twice.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  derives from SafeLoader
    except yaml.MarkedYAMLError as error:
        raise _describe(error, text, where) from None
    except yaml.YAMLError as error:  # characters that no YAML may hold
        raise SpecError(f"{where}: {str(error).splitlines()[0]}.", "Remove the control characters.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        number = next((i for i, line in enumerate(text.splitlines()) if line.split("#")[0].strip()), 0)
        raise _line_error(text, number, where, "it is no `key: value`")
    return value


def load_value(text: str) -> Any:
    """Read the value of ``key=value`` on a magic's line: quoted text is text, all else as in the body.

    Raises:
        SpecError: the value cannot be read.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.startswith("#"):
        return text  # no comment: the line has no comments
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  derives from SafeLoader
    except yaml.YAMLError:
        value = None if text[0] in "[{" else text
        if value is None:
            raise SpecError(
                f"value {text} cannot be read: the bracket is not closed or holds a stray mark.",
                "Write a list as [a, b] and a mapping as {key: value}.",
            ) from None
    # `a: b` or `- a` would be a mapping or list; on a line only brackets make one.
    return value if not isinstance(value, dict | list) or text[0] in "[{" else text


def resolve(values: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the variables of ``namespace`` in place of every ``Reference``, in lists and maps too.

    Raises:
        SpecError: there is no such variable, or (namespace None) no notebook to hold one.
    """
    return {key: _look_up(value, namespace) for key, value in values.items()}


def _look_up(value: Any, namespace: Mapping[str, Any] | None) -> Any:
    if isinstance(value, Reference):
        return variable(value.name, namespace)
    if isinstance(value, dict):
        return {key: _look_up(part, namespace) for key, part in value.items()}
    if isinstance(value, list):
        return [_look_up(part, namespace) for part in value]
    return value


def variable(name: str, namespace: Mapping[str, Any] | None) -> Any:
    """Return the variable that ``$name`` stands for.

    Raises:
        SpecError: it does not exist, or there is no notebook.
    """
    if namespace is None:
        raise SpecError(
            f"${name} names a Python variable, and outside a notebook there are none.",
            "Write a path, a hub id or the name of a run.",
        )
    if name not in namespace:
        known = [word for word in namespace if not word.startswith("_")]
        raise SpecError(
            f"${name}: there is no variable '{name}'.{nearest(name, known)}",
            f"Run the cell that makes it, or drop the $ if '{name}' is a path, hub id or run.",
        )
    return namespace[name]


def _describe(error: yaml.MarkedYAMLError, text: str, where: str) -> SpecError:
    earlier = error.context in _BEGINS_EARLIER and error.context_mark is not None
    mark = error.context_mark if earlier else error.problem_mark
    number = min(mark.line if mark is not None else 0, max(len(text.splitlines()) - 1, 0))
    problem = error.problem or "YAML cannot read it"
    if problem.endswith("is given twice"):
        first = _first_line_of(problem.split("'")[1], text)
        return SpecError(
            f"{where} line {number + 1}: {problem} (first in line {first}).", "Keep one of them."
        )
    if problem.startswith(("anchors", "a key must")):
        return _line_error(text, number, where, problem)
    for context, instead in _CURES.items():
        if (error.context or "").startswith(context):
            return _line_error(text, number, where, "YAML cannot read it", instead)
    return _line_error(text, number, where, "YAML cannot read it")


def _first_line_of(key: str, text: str) -> int:
    lines = enumerate(text.splitlines(), start=1)
    return next((i for i, line in lines if line.strip().startswith((f"{key}:", f"{key} :"))), 1)


def _line_error(text: str, number: int, where: str, problem: str, instead: str = "") -> SpecError:
    line = (text.splitlines() or [""])[number]
    return SpecError(f"{where} line {number + 1}: {problem}: {line.strip()}", instead or _instead(line))


def _instead(line: str) -> str:
    """Return what to write in place of a line that cannot be read."""
    bare = line.strip()
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "Indent with spaces: YAML allows no tabs."
    if match := _EQUALS.fullmatch(bare):
        return f"Write `{match['key']}: {match['value']}`."
    match = _PLAIN.fullmatch(bare)
    if match and not match["space"]:
        return f"Write a space after the colon: `{match['key']}: {match['value']}`."
    if match and line[0] == " " and not _needs_quotes(match["value"]):
        return "Begin it in the same column as the other keys."
    if match:
        value = match["value"].replace("'", "''")
        return f"Write the value in quotes: `{match['key']}: '{value}'`."
    return "Each line is `key: value`; lines that continue a value are indented."


def _needs_quotes(value: str) -> bool:
    """Tell whether a value is at fault by itself, not by where its line begins."""
    try:
        yaml.load(f"key: {value}", Loader=_Loader)  # noqa: S506  derives from SafeLoader
    except yaml.YAMLError:
        return True
    return False
