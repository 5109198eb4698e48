"""``%ft advise``: a model, rows and the form as typed, to one call of ``ft.advise``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import MutableMapping
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.shell import actions

# Options of the verb that are keywords of ``ft.advise`` as they are.
KEYWORDS = ("needs", "facts_change", "runtime", "target", "metric", "shots", "examples", "seed")


def advise(arguments: Namespace, variables: actions.Variables) -> Any:
    """Return the advice, which ``-o`` keeps in a variable too; or the table of rules."""
    from ft_magic.advising import advise as advised
    from ft_magic.shell import yaml_body

    if arguments.rules:
        from ft_magic.advising.display import rule_table

        return rule_table()
    if not arguments.model or not arguments.data:
        raise SpecError("advise: a model and rows are needed.", "Write: advise demo $ds, or advise --rules")

    out, model = arguments.out, arguments.model
    if out and (variables is None or not out.isidentifier()):
        where = "no Python name" if variables is not None else "a variable, and a command line has none"
        raise SpecError(f"advise: -o {out} is {where}.", "Write -o advice in a notebook.")
    given = {key: getattr(arguments, key) for key in KEYWORDS if getattr(arguments, key) is not None}
    found = advised(
        yaml_body.load_value(model) if model.startswith("{") else actions.value(model, variables),
        actions.value(arguments.data, variables),
        goal=arguments.goal or (arguments.body or "").strip(),
        heldout=actions.value(arguments.heldout, variables) if arguments.heldout else None,
        measure=not arguments.no_measure,
        data_word=arguments.data,
        variable=_expression(arguments, variables),
        **given,
    )
    if out and isinstance(variables, MutableMapping):
        variables[out] = found
    return found


def _expression(arguments: Namespace, variables: actions.Variables) -> str:
    """Return what the next cell calls the advice: its variable, or ``_``, IPython's last value."""
    if variables is None:
        return f'ft.advise("{arguments.model}", "{arguments.data}")'
    return arguments.out or "_"
