"""What a row of the verb table says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_magic.shell import actions


@dataclass(frozen=True)
class Argument:
    """One argument of a verb.

    Attributes:
        flags: the positional's name, or the option's spellings.
        help: one sentence.
        kind: what completes it: ``run``, ``value`` (``$name``), ``keys``, ``gguf``, ``file``, or nothing.
        choices: the words it may be, where they are few.
        settings: further keywords of ``argparse``'s ``add_argument``.
    """

    flags: tuple[str, ...]
    help: str
    kind: str = ""
    choices: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def optional(self) -> bool:
        """Whether it is an option, not a positional."""
        return self.flags[0].startswith("-")


@dataclass(frozen=True)
class Verb:
    """One thing ``%ft`` and ``ft-magic`` do.

    Attributes:
        name: the word users write.
        title: one sentence for tables and help.
        arguments: in order.
        function: called with (arguments, variables or None); returns what is shown.
        body: name of the argument that a ``%%ft`` cell's body fills, or empty.
        live: the function shows its work itself.
    """

    name: str
    title: str
    arguments: tuple[Argument, ...]
    function: Callable[[argparse.Namespace, actions.Variables], Any]
    body: str = ""
    live: bool = False


@dataclass(frozen=True)
class Request:
    """A verb with its arguments, read and checked, not done yet.

    Attributes:
        verb: the verb's row.
        arguments: as parsed; None asks for the verb's help.
        command: what comes before the verb: ``%ft`` or ``ft-magic``.
    """

    verb: Verb
    arguments: argparse.Namespace | None
    command: str = "%ft"
