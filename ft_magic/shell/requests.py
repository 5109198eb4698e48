"""Reads what was typed after ``%ft`` or ``ft-magic`` into a verb with its arguments, and does it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ft_magic.errors import SpecError, nearest
from ft_magic.shell import actions
from ft_magic.shell.verb import Argument, Request, Verb
from ft_magic.shell.verbs import VERBS


def read(words: Sequence[str], body: str | None = None, command: str = "%ft") -> Request | None:
    """Read a verb and its arguments; None when no verb is given, which asks for the overview.

    Args:
        words: verb and arguments, quotes removed.
        body: a ``%%ft`` cell's body, or None.
        command: what comes before the verb, for messages.

    Raises:
        SpecError: no such verb or option, a wrong or missing argument, or a body the verb has no use for.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        return None
    name, *rest = words
    if name not in VERBS:
        raise SpecError(f"verb '{name}' does not exist.{nearest(name, VERBS)}", f"Verbs: {', '.join(VERBS)}.")
    verb = VERBS[name]
    if "-h" in rest or "--help" in rest:
        return Request(verb, None, command)
    parser = _parser(verb, command)
    arguments, unknown = parser.parse_known_args(list(rest))
    if unknown:
        options = [flag for argument in verb.arguments for flag in argument.flags if argument.optional]
        hint = nearest(unknown[0], options)
        raise SpecError(f"{name}: '{unknown[0]}' is not understood.{hint}", _usage(parser))
    arguments.body = None
    if body is not None and body.strip():
        if not verb.body:
            raise SpecError(f"{name} takes no cell body.", f"Use the line form: {command} {' '.join(words)}")
        arguments.body = body
    return Request(verb, arguments, command)


def do(request: Request | None, variables: actions.Variables) -> Any:
    """Do what was asked and return what is to be shown; help where that was asked."""
    if request is None:
        return actions.Text(overview())
    if request.arguments is None:
        return actions.Text(_parser(request.verb, request.command).format_help().rstrip())
    return request.verb.function(request.arguments, variables)


def overview(command: str = "%ft") -> str:
    """Return the list of verbs with their titles."""
    widest = max(map(len, VERBS))
    lines = [f"  {verb.name.ljust(widest)}  {verb.title}" for verb in VERBS.values()]
    head = f"{command} VERB [arguments]; `{command} VERB --help` shows a verb's arguments."
    return "\n".join([head, "", *lines])


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises our errors and never leaves the program."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how the verb is written."""
        raise SpecError(f"{self.prog}: {message}.", _usage(self))


def _parser(verb: Verb, command: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{command} {verb.name}", description=verb.title, add_help=False, allow_abbrev=False
    )
    for argument in verb.arguments:
        parser.add_argument(*argument.flags, help=_help(argument), **argument.settings)
    return parser


def _help(argument: Argument) -> str:
    known = f" ({', '.join(argument.choices)})" if argument.choices else ""
    return (argument.help + known).replace("%", "%%")


def _usage(parser: argparse.ArgumentParser) -> str:
    return "Write: " + " ".join(parser.format_usage().removeprefix("usage: ").split())
