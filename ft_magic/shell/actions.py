"""What each verb does: find the run or the data, call the Python API, return what is to be shown.

Nothing is possible here that is not possible in Python. Every function takes the verb's parsed arguments and
the notebook's variables, None on the command line.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.errors import DataError, FTError, ModelError, SpecError, nearest
from ft_magic.shell import calls

if TYPE_CHECKING:
    from ft_magic.run import Run
    from ft_magic.ui.show import Shown

Variables = Mapping[str, Any] | None


class Text(str):
    """Text that shows itself as text, line breaks and all, when it is the last value of a cell."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's signature
        printer.text(str(self))


def doctor(_arguments: Namespace, _variables: Variables) -> Any:
    """Check this machine."""
    from ft_magic.shell.doctor import check

    return check()


def template(arguments: Namespace, variables: Variables) -> Any:
    """Audit a model's chat template on every row of the data; a row or the repaired data where asked for."""
    from ft_magic.template import check_template

    audit = check_template(
        value(arguments.model, variables),
        value(arguments.data, variables) if arguments.data else None,
        max_length_tokens=arguments.max_length,
        train_on=arguments.train_on,
    )
    if arguments.fix:
        return audit.fix(*(name.strip() for name in arguments.fix.split(",")))
    return audit if arguments.row is None else audit.preview(arguments.row)


def plan(arguments: Namespace, variables: Variables) -> Any:
    """Make a plan and start nothing."""
    from ft_magic.launch import make_plan
    from ft_magic.shell import yaml_body

    if arguments.file and arguments.body:
        raise SpecError("plan: settings come from --file and from the cell's body.", "Give one of them.")
    body = _file_values(arguments.file) if arguments.file else yaml_body.load(arguments.body or "")
    call = calls.build(arguments.pairs, body, arguments.file or "body")
    return make_plan(**call.resolved(variables))


def finetune(arguments: Namespace, variables: Variables) -> Any:
    """Start the run that a YAML file describes."""
    flags = [word for word, on in (("--detach", arguments.detach), ("--dry-run", arguments.dry_run)) if on]
    call = calls.build([*arguments.pairs, *flags], _file_values(arguments.file), arguments.file)
    return start(call, variables)


def start(call: calls.Call, variables: Variables) -> Any:
    """Do what a call asks: show the keys, show the plan, or train and return the run."""
    if call.help:
        return keys()
    from ft_magic import launch

    values = call.resolved(variables)
    try:
        return _dry_run(launch.make_plan(**values), call) if call.dry_run else launch.finetune(**values)
    except (DataError, ModelError) as error:
        raise _with_dollar(error, call, variables) from error


def keys() -> Shown:
    """Return the table of spec keys, made from the spec itself."""
    from ft_magic.spec import Spec, choices
    from ft_magic.ui.show import shown_table

    rows = []
    for key, entry in Spec.model_fields.items():
        default = "required" if entry.is_required() else entry.get_default(call_default_factory=True)
        words = "" if choices(key) in {(), ("true", "false")} else f" ({', '.join(choices(key))})"
        rows.append((key, "" if default in (None, {}) else str(default), f"{entry.description}{words}"))
    options = [(name, "", title) for name, title in calls.OPTIONS.items()]
    title = "%%finetune [NAME] [key=value ...] and `key: value` lines below; $name is a Python variable"
    return shown_table([*rows, *options], ("key", "default", "what it is"), title=title)


def runs(_arguments: Namespace, _variables: Variables) -> Any:
    """List the runs."""
    from ft_magic.run_list import runs as listed

    return listed()


def methods(_arguments: Namespace, _variables: Variables) -> Any:
    """Show which method, update and backend go together on this machine."""
    from ft_magic import hardware
    from ft_magic.planning import plans

    return plans.grid(cpu=not hardware.read().gpus)


def attach(arguments: Namespace, variables: Variables) -> Any:
    """Follow a run until it ends and return it."""
    found = run(arguments.run, variables)
    found.attach()
    return found


def stop(arguments: Namespace, variables: Variables) -> Text:
    """Ask a run to stop."""
    found = run(arguments.run, variables)
    found.stop(now=arguments.now)
    how = "stopped at once" if arguments.now else "asked to finish its step, save a checkpoint and stop"
    return Text(f"{found.name}: {how}. Go on later with %ft resume {found.name}")


def resume(arguments: Namespace, variables: Variables) -> Any:
    """Go on with a stopped run and return it."""
    found = run(arguments.run, variables)
    found.resume(detach=arguments.detach)
    return found


def logs(arguments: Namespace, variables: Variables) -> Text:
    """Return the last lines of a run's log."""
    return Text(run(arguments.run, variables).logs(lines=arguments.lines))


def evaluate(arguments: Namespace, variables: Variables) -> Any:
    """Measure the held-out rows, with a score function where one is named."""
    score = value(arguments.score, variables) if arguments.score else None
    if score is not None and not callable(score) and not hasattr(score, "score"):
        raise SpecError(
            f"--score {arguments.score} is no function and no reward run.",
            "Write --score $fn, where fn(prompt, answer, expected) returns a number or a dict of numbers.",
        )
    return run(arguments.run, variables).evaluate(samples=arguments.samples, score=score)


def compare(arguments: Namespace, variables: Variables) -> Any:
    """Answer prompts (one a line of the cell's body, else held-out ones) before and after training."""
    prompts = [line.strip() for line in (arguments.body or "").splitlines() if line.strip()]
    return run(arguments.run, variables).compare(prompts=prompts or None)


def merge(arguments: Namespace, variables: Variables) -> Path:
    """Fold the adapter into its base."""
    return run(arguments.run, variables).merge()


def export(arguments: Namespace, variables: Variables) -> Any:
    """Write and certify the files that are shipped."""
    types = tuple(word.strip() for word in arguments.gguf.split(",") if word.strip())
    found = run(arguments.run, variables)
    return found.export(gguf=types, ollama=arguments.ollama, folder=arguments.folder)


def chat(arguments: Namespace, variables: Variables) -> Any:
    """Say one thing and return the answer; without one, the chat itself (in a terminal: talk)."""
    text = arguments.say or (arguments.body or "").strip()
    talk = run(arguments.run, variables).chat(gguf=arguments.gguf or None)
    if not text and variables is not None:
        return talk  # never wait for typing in a notebook: Run All must get through
    with talk:
        return Text(talk.say(text)) if text else talk.repl()


def report(arguments: Namespace, variables: Variables) -> Path:
    """Write the run's report page and return its path."""
    return run(arguments.run, variables).report()


def unload(_arguments: Namespace, _variables: Variables) -> Text:
    """End the process that keeps a model loaded."""
    from ft_magic import jobs

    jobs.unload()
    return Text("The process that kept a model loaded has ended; its memory is free.")


def script(arguments: Namespace, variables: Variables) -> Text:
    """Return the run as a plain script."""
    return Text(run(arguments.run, variables).script())


def value(word: str, variables: Variables) -> Any:
    """Return the variable of a ``$name``; any other word is itself."""
    from ft_magic.shell import yaml_body

    return yaml_body.variable(word[1:], variables) if word.startswith("$") else word


def run(word: str | None, variables: Variables) -> Run:
    """Return the run that a word names: a variable, ``$variable``, a name or folder; None is the last run.

    Raises:
        SpecError: there is no run yet, or the variable holds something else.
    """
    from ft_magic.run import Run
    from ft_magic.run_list import last_run, open_run

    if word is None:
        found = last_run()
        if found is None:
            raise SpecError("there is no run yet.", "Start one with %%finetune, or name a run or its folder.")
        return found
    known = {name: held for name, held in (variables or {}).items() if isinstance(held, Run)}
    if word in known:
        return known[word]
    if word.startswith("$"):
        held = value(word, variables)
        if not isinstance(held, Run):
            raise SpecError(
                f"{word} is a {type(held).__name__}, not a run.{nearest(word[1:], known)}", "See %ft runs."
            )
        return held
    try:
        return open_run(word)
    except FTError as error:
        hint = nearest(word, known)
        if not hint:
            raise
        raise SpecError(f"'{word}' is no run.{hint}", error.instead) from error


def _with_dollar(error: FTError, call: calls.Call, variables: Variables) -> FTError:
    """Return the error, with a hint where a value is the name of a variable and lacks its ``$``."""
    for key in ("data", "eval_data", "model"):
        word = call.values.get(key)
        if isinstance(word, str) and word in (variables or {}):
            instead = f"To use your variable {word}, write {key}: ${word}\n{error.instead}"
            return type(error)(error.problem, instead.strip())
    return error


def _file_values(file: str) -> dict[str, Any]:
    """Read the settings of a YAML file.

    Raises:
        SpecError: it cannot be read.
    """
    from ft_magic.shell import yaml_body

    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SpecError(
            f"file '{file}' cannot be read: {reason}.", "Give a YAML file of `key: value` lines."
        ) from None
    return yaml_body.load(text, where=file)


def _dry_run(made: Any, call: calls.Call) -> Shown:
    """Return a plan with the Python that does the same."""
    from ft_magic.ui.show import Shown, heading_html, pre_html

    code, title = call.as_python(), "The same in Python"
    return Shown(made._repr_html_(), repr(made)) + Shown(
        heading_html(title) + pre_html(code), f"{title}:\n{code}"
    )
