"""What was typed to start a run: a magic's line and body, or the command line's words, as one ``Call``.

Grammar of the line: ``[NAME] [key=value ...] [--detach] [--dry-run] [--help]``. NAME is the Python variable
that will hold the run. Quotes keep spaces together: ``data="my file.json"``.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ft_magic.errors import SpecError, nearest

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--detach": "return at once; follow later with `%ft attach`",
        "--dry-run": "show the plan and the equivalent Python, and start nothing",
        "--help": "show every key",
    }
)
# A word runs to the next space outside quotes and brackets.
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|[^\s"'])+""")
_PAIR = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """What was typed, variables not looked up yet.

    Attributes:
        variable: Python variable to hold the run, or None.
        values: spec keys as written; ``$name`` is a ``yaml_body.Reference``.
        dry_run: show the plan, start nothing.
        help: show the keys, start nothing.
    """

    variable: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    help: bool = False

    def resolved(self, namespace: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the values with every ``$name`` replaced by its variable; namespace None means no notebook.

        Raises:
            SpecError: there is no such variable.
        """
        from ft_magic.shell import yaml_body

        return yaml_body.resolve(self.values, namespace)

    def as_python(self) -> str:
        """Return the call as Python that does the same without magics."""
        given = ", ".join(f"{key}={_source(value)}" for key, value in self.values.items())
        target = f"{self.variable} = " if self.variable else ""
        return f"import ft_magic as ft\n{target}ft.finetune({given})"


def words(line: str) -> list[str]:
    """Split a line at spaces outside quotes and brackets; the quotes stay.

    Raises:
        SpecError: a quote is not closed.
    """
    found = _WORD.findall(line)
    rest = _WORD.sub("", line).strip()
    if rest:
        raise SpecError(
            f"a quote is not closed: {line.strip()}", "Close it, or use the other kind of quote around it."
        )
    return found


def unquote(word: str) -> str:
    """Return a word without its quotes: ``"a b"`` -> ``a b``."""
    return re.sub(r"\"([^\"]*)\"|'([^']*)'", lambda match: match[1] or match[2] or "", word)


def arguments(line: str) -> list[str]:
    """Split a line into arguments; the quotes of ``key="value"`` stay, which tell text from numbers.

    Raises:
        SpecError: a quote is not closed.
    """
    return [word if _PAIR.fullmatch(word) else unquote(word) for word in words(line)]


def parse(line: str, body: str | None = None, method: str | None = None) -> Call:
    """Read a magic's line and body.

    Args:
        line: what stands after the magic's name.
        body: the cell's YAML, or None for the line form.
        method: the method a magic is pinned to, as ``%%dpo`` is.

    Raises:
        SpecError: a word that is no key=value and no option, a key given twice, a body YAML cannot read, a
            variable name that cannot be, or another method than the pinned one.
    """
    from ft_magic.shell import yaml_body

    given = words(line)
    variable = None
    if given and not given[0].startswith("-") and "=" not in given[0]:
        variable = _variable(given.pop(0))
    return build(given, yaml_body.load(body or ""), "body", variable=variable, method=method)


def build(
    given: Sequence[str],
    body: Mapping[str, Any],
    where: str,
    *,
    variable: str | None = None,
    method: str | None = None,
) -> Call:
    """Join the words of a line with what a body or file holds.

    Args:
        given: ``key=value`` words and options.
        body: keys and values read before.
        where: what the body is, for messages: ``body``, or a file's name.
        variable: Python variable to hold the run.
        method: the method that is pinned.

    Raises:
        SpecError: as for ``parse``.
    """
    flags = [word for word in given if word.startswith("-")]
    for flag in flags:
        _check_flag(flag)
    line_values = pairs(word for word in given if not word.startswith("-"))
    if "--detach" in flags:
        _refuse_twice(["detach"], line_values, "as --detach and as detach=")
        line_values["detach"] = True
    _refuse_twice(line_values, body, f"on the line and in the {where}")
    values = {**line_values, **body}
    if method is not None:
        if values.get("method", method) != method:
            raise SpecError(
                f"method: {values['method']} is given, but %%{method} always runs {method}.",
                f"Use %%{values['method']} or %%finetune, or leave method out.",
            )
        values["method"] = method
    return Call(variable, values, "--dry-run" in flags, "--help" in flags)


def pairs(given: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` words.

    Raises:
        SpecError: a word that is none, has no value, or a key given twice.
    """
    from ft_magic.shell import yaml_body

    values: dict[str, Any] = {}
    for word in given:
        match = _PAIR.fullmatch(word)
        if match is None:
            raise SpecError(f"'{word}' is no key=value.", "Write key=value without spaces around the =.")
        key, text = match.groups()
        if not text:
            raise SpecError(f"{key}= has no value.", f"Write {key}=value without spaces around the =.")
        _refuse_twice([key], values, "on the line")
        values[key] = yaml_body.load_value(text)
    return values


def _refuse_twice(keys: Iterable[str], taken: Mapping[str, Any], where: str) -> None:
    for key in keys:
        if key in taken:
            raise SpecError(f"'{key}' is given twice: {where}.", "Keep one of them.")


def _variable(word: str) -> str:
    """Check the name of the variable that will hold the run."""
    if not word.isidentifier():
        raise SpecError(
            f"'{word}' comes first, so it is the variable that holds the run, but it is no Python name.",
            "Write for example `%%finetune run`, and settings as key=value.",
        )
    if keyword.iskeyword(word) or hasattr(builtins, word):
        kind = "keyword" if keyword.iskeyword(word) else "built-in"
        raise SpecError(
            f"'{word}' is a Python {kind} and cannot hold the run.", f"Write for example `my_{word}`."
        )
    return word


def _check_flag(flag: str) -> None:
    if flag in OPTIONS:
        return
    from ft_magic.spec import Spec

    key, _, value = flag.lstrip("-").partition("=")
    key = key.replace("-", "_")
    hint = nearest(flag, OPTIONS)
    if not hint and key in Spec.model_fields:
        raise SpecError(
            f"option '{flag}' does not exist: settings are key=value.", f"Write {key}={value or '...'}"
        )
    raise SpecError(f"option '{flag}' does not exist.{hint}", f"Options: {', '.join(OPTIONS)}.")


def _source(value: Any) -> str:
    """Return a value as Python source; a reference is the variable's name."""
    from ft_magic.shell.yaml_body import Reference

    if isinstance(value, Reference):
        return value.name
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_source(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_source, value)) + "]"
    return repr(value)
