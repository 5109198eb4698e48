"""``%ft judge``: rows, a judge and criteria as typed, to one call of ``ft.judge``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.errors import SpecError
from ft_magic.shell import actions

if TYPE_CHECKING:
    from ft_magic.data import Data


def judge(arguments: Namespace, variables: actions.Variables) -> Any:
    """Compare two answers to each prompt; the decided pairs go to ``-o``, a variable or a file."""
    from ft_magic.judging import judge as judged
    from ft_magic.shell import yaml_body

    check_target("judge", arguments.out, variables)
    who = arguments.judge
    found = judged(
        actions.value(arguments.rows, variables),
        judge=yaml_body.load_value(who) if who.startswith("{") else actions.value(who, variables),
        criteria=arguments.criteria or (arguments.body or "").strip() or None,
        votes=actions.value(arguments.votes, variables) if arguments.votes else None,
    )
    if arguments.out:
        keep(found.pairs(), arguments.out, variables)
    return found


def check_target(verb: str, out: str | None, variables: actions.Variables) -> None:
    """Refuse a place for rows (a verb's ``-o``) that cannot be, before anything is asked.

    Raises:
        SpecError: it is no Python name, or no file where there are no variables.
    """
    if out is None or out.endswith(".jsonl"):
        return
    if not out.isidentifier() or variables is None:
        what = "no Python name" if variables is not None else "no file"
        raise SpecError(
            f"{verb}: -o {out} is {what}.", "Write -o prefs (a variable) or -o prefs.jsonl (a file)."
        )


def keep(rows: Data, out: str, variables: actions.Variables) -> None:
    """Put rows into a variable, or into a ``.jsonl`` file."""
    if out.endswith(".jsonl"):
        rows.to_jsonl(Path(out).expanduser())
    elif isinstance(variables, MutableMapping):
        variables[out] = rows
