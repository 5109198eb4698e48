"""The verbs of ``%ft VERB`` and ``ft-magic VERB``: one table of rows, from which help and parsing come.

A verb's function gets parsed arguments and the notebook's variables (None on the command line) and returns
what is to be shown. ``live`` marks verbs that show their work themselves: nothing shows it again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from ft_magic.axes import SIGNALS
from ft_magic.errors import SpecError, nearest
from ft_magic.shell import actions, calls, judging
from ft_magic.shell.verb import Argument, Request, Verb

_RUN = Argument(
    ("run",), "variable, name or folder of a run; by default the last one", "run", settings={"nargs": "?"}
)
_KEYS = Argument(("pairs",), "settings of the run", "keys", settings={"nargs": "*", "metavar": "key=value"})
_SPEC = Argument(("--file",), "YAML file with further settings", "file", settings={"metavar": "SPEC"})


def _option(
    flags: str, text: str, kind: str = "", choices: tuple[str, ...] = (), **settings: Any
) -> Argument:
    return Argument(tuple(flags.split()), text, kind, choices, settings)


def _flag(name: str, text: str) -> Argument:
    return _option(name, text, action="store_true")


_ROWS = (
    Verb(
        "doctor",
        "What this machine can do, what is missing, and the one cell that fixes it.",
        (),
        actions.doctor,
    ),
    Verb(
        "data",
        "Read data, detect its shape, normalise it and show a report card.",
        (
            Argument(("source",), "path, URL or hub id; $name = a variable", "value"),
            _option("--signal", "what the rows are, where detection is wrong", choices=tuple(SIGNALS)),
            _option(
                "--columns", "which column is what: prompt=question,completion=answer", metavar="A=B,..."
            ),
            _option("--limit", "read the first N rows only", type=int, metavar="N"),
        ),
        actions.data,
    ),
    Verb(
        "template",
        "Check on every row that the chat template trains what you think it trains.",
        (
            Argument(("model",), "'demo', a hub id, a folder, or $run", "value"),
            Argument(("data",), "path, URL or hub id; $name = a variable", "value"),
        ),
        actions.template,
    ),
    Verb(
        "plan",
        "Show what a run would do, every number with its reason.",
        (_KEYS, _SPEC),
        actions.plan,
        "pairs",
    ),
    Verb(
        "finetune",
        "Train as a YAML file says.",
        (
            Argument(("file",), "YAML file with the settings", "file", settings={"metavar": "spec.yaml"}),
            _KEYS,
            _flag("--detach", calls.OPTIONS["--detach"]),
            _flag("--dry-run", calls.OPTIONS["--dry-run"]),
        ),
        actions.finetune,
        live=True,
    ),
    Verb("runs", "List the runs, the latest first.", (), actions.runs),
    Verb("methods", "Show which method, update and backend go together, and why not.", (), actions.methods),
    Verb("attach", "Follow a run again, from any notebook or terminal.", (_RUN,), actions.attach, live=True),
    Verb(
        "stop",
        "Finish the step, save a checkpoint and stop.",
        (_RUN, _flag("--now", "stop at once; the last checkpoint stays")),
        actions.stop,
    ),
    Verb(
        "resume",
        "Go on exactly where a run stopped.",
        (_RUN, _flag("--detach", calls.OPTIONS["--detach"])),
        actions.resume,
        live=True,
    ),
    Verb(
        "logs",
        "Show the last lines a run's worker printed.",
        (_RUN, _option("-n --lines", "how many lines", type=int, default=40, metavar="N")),
        actions.logs,
    ),
    Verb(
        "evaluate",
        "Measure the held-out rows and show samples, before and after.",
        (
            _RUN,
            _option("--samples", "held-out prompts to answer", type=int, default=8, metavar="N"),
            _option(
                "--score",
                "$fn with fn(prompt, answer, expected) -> number, or $reward_run",
                kind="value",
                metavar="$FN",
            ),
        ),
        actions.evaluate,
    ),
    Verb(
        "compare",
        "Show the answers before and after training side by side.",
        (_RUN,),
        actions.compare,
        "prompts",
    ),
    Verb(
        "judge",
        "Compare two answers to each prompt by a model, each pair in both orders.",
        (
            Argument(("rows",), "rows with prompt, a, b, or preference rows; $name = a variable", "value"),
            _option("--judge", "a model, $run, or $settings of an endpoint", "value", required=True),
            _option("--criteria", "what makes an answer better; a cell's body says it too", metavar="TEXT"),
            _option("--votes", "your own verdicts: $list of a, b or tie", "value", metavar="$LIST"),
            _option("-o --out", "variable or .jsonl file that gets the decided pairs", metavar="NAME"),
        ),
        judging.judge,
        "criteria",
    ),
    Verb("merge", "Fold the adapter into the base and write a plain model folder.", (_RUN,), actions.merge),
    Verb(
        "export",
        "Merge, quantize, write files for other programs and certify that they agree.",
        (
            _RUN,
            _option(
                "--gguf",
                "GGUF types to write: q4_k_m,q8_0",
                kind="gguf",
                metavar="TYPE,...",
                default="q4_k_m",
            ),
            _flag("--ollama", "write an Ollama Modelfile as well"),
            Argument(
                ("--folder",),
                "where to write; by default the run's folder",
                "file",
                settings={"metavar": "PATH"},
            ),
        ),
        actions.export,
    ),
    Verb(
        "chat",
        "Talk to a run's model, or to the GGUF file you will ship.",
        (
            _RUN,
            _option("--gguf", "talk to the GGUF file", kind="gguf", nargs="?", const="", metavar="TYPE"),
            _option("--say", "one message; the answer is shown", metavar="TEXT"),
        ),
        actions.chat,
        "say",
    ),
    Verb("report", "Write the run's report.html: asked, planned, happened, proven.", (_RUN,), actions.report),
    Verb("unload", "End the process that keeps a model loaded and free its memory.", (), actions.unload),
    Verb("script", "Show the same run as a plain TRL script.", (_RUN,), actions.script),
)
VERBS: Mapping[str, Verb] = MappingProxyType({row.name: row for row in _ROWS})


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
