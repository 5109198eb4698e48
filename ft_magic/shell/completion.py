"""Tab completion for the magics' lines and bodies, through IPython's ``complete_command`` hook.

The hook gets the line up to the cursor. Whether that line belongs to a cell's body is read from the front
end's completion request (ipykernel) or the terminal's buffer. What can follow is found by pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ft_magic.axes import METHODS
from ft_magic.axes.pipelines import PIPELINES

if TYPE_CHECKING:
    from ft_magic.shell.verb import Argument

_HOOK = "complete_command"
# IPython hands a hook only lines whose beginning matches; the body of a cell may begin with anything.
_ANY_LINE = ""
_MAGIC = re.compile(r"\s*(?:[\w\s,.\[\]'\"]*=\s*)?(%{1,2})(\w+)(?:[ \t]+(.*))?", re.DOTALL)
_BODY_KEY = re.compile(r"\w*")
_BODY_VALUE = re.compile(r"(\w+)\s*:\s+(?:.*[\s\[,:])?(\S*)")
_PAIR = re.compile(r"(\w+)=(.*)")
_START = ("finetune", *METHODS, *PIPELINES)


def install(shell: Any) -> None:
    """Register the hook."""
    shell.set_hook(_HOOK, _complete, re_key=_ANY_LINE)


def remove(shell: Any) -> None:
    """Remove the hook; nothing happens where there is none."""
    dispatch = shell.strdispatchers.get(_HOOK)
    chains = list(dispatch.regexs.items()) if dispatch is not None else []
    # A chain holds (priority, bound function) pairs; IPython offers no way to take one out.
    for pattern, chain in chains:
        chain.chain[:] = [pair for pair in chain.chain if getattr(pair[1], "__func__", None) is not _complete]
        if not chain.chain:
            del dispatch.regexs[pattern]


def _complete(shell: Any, event: Any) -> list[str]:
    """IPython's hook: return whole replacements for ``event.symbol``."""
    variables = {
        k: v for k, v in shell.user_ns.items() if k not in shell.user_ns_hidden and not k.startswith("_")
    }
    return candidates(event.text_until_cursor, _cell_head(shell), variables, event.symbol)


def _cell_head(shell: Any) -> str:
    """Return the first line of the cell that is being completed; empty where it cannot be known."""
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        content = (kernel.get_parent("shell") or {}).get("content", {})
        text = str(content.get("code", ""))
    else:
        buffer = getattr(getattr(shell, "pt_app", None), "default_buffer", None)
        text = str(getattr(buffer, "text", ""))
    return text.lstrip().partition("\n")[0]


def candidates(before: str, head: str, variables: Mapping[str, Any], symbol: str) -> list[str]:
    """Return the words that can stand where the cursor is.

    Args:
        before: the cursor's line up to the cursor.
        head: first line of the cell.
        variables: the notebook's variables by name.
        symbol: what IPython will replace; candidates begin with it.
    """
    match = _MAGIC.fullmatch(before)
    if match:
        _, name, rest = match.groups()
        if rest is None:
            return []
        found = _line_words(name, rest, variables)
    else:
        head_match = _MAGIC.fullmatch(head)
        if not head_match or head_match[1] != "%%" or head_match[2] not in _START:
            return []
        found = _body_words(before, variables)
    return sorted(word for word in set(found) if word.startswith(symbol))


def _line_words(name: str, rest: str, variables: Mapping[str, Any]) -> Iterable[str]:
    last = rest.rpartition(" ")[2]
    if name in _START:
        return _start_words(last, variables)
    if name == "reward_fn":
        return _reward_words(rest, last, variables)
    if name == "ft":
        return _verb_words(rest.split(" ")[:-1], last, variables)
    return ()


def _reward_words(rest: str, last: str, variables: Mapping[str, Any]) -> Iterable[str]:
    """Complete a word of ``%%reward_fn``'s line: functions first, then its options."""
    if pair := _PAIR.fullmatch(last):
        return _values(pair[1], pair[2], variables)
    if " " in rest:
        return ("data=", "n=")
    functions = [name for name, held in variables.items() if isinstance(held, FunctionType)]
    return ["--help"] if last.startswith("-") else functions


def _start_words(last: str, variables: Mapping[str, Any]) -> Iterable[str]:
    """Complete a word of ``%%finetune``'s line."""
    from ft_magic.shell import calls
    from ft_magic.spec import Spec

    if pair := _PAIR.fullmatch(last):
        return _values(pair[1], pair[2], variables)
    return calls.OPTIONS if last.startswith("-") else Spec.model_fields


def _body_words(before: str, variables: Mapping[str, Any]) -> Iterable[str]:
    """Complete a line of a ``%%finetune`` cell's body."""
    from ft_magic.spec import Spec

    if _BODY_KEY.fullmatch(before):
        return Spec.model_fields
    match = _BODY_VALUE.fullmatch(before)
    return _values(match[1], match[2], variables) if match else ()


def _values(key: str, typed: str, variables: Mapping[str, Any]) -> Iterable[str]:
    """Complete a key's value: its fixed words, or variables after a ``$``."""
    from ft_magic.spec import Spec, choices

    if typed.startswith("$"):
        return variables  # the $ is a delimiter for IPython and stays
    if key not in Spec.model_fields:
        return ()
    objects = ("data", "eval_data", "model", "rewards", "judge", "teacher")
    words = [f"${name}" for name in variables] if key in objects and not typed else []
    return [*choices(key), *words, *(("demo", *_run_names()) if key in ("model", "judge", "teacher") else ())]


def _verb_words(given: list[str], last: str, variables: Mapping[str, Any]) -> Iterable[str]:
    """Complete a word of ``%ft``'s line."""
    from ft_magic.shell.verbs import VERBS

    given = [word for word in given if word]
    if not given:
        return VERBS
    if last.startswith("$"):
        return variables
    arguments = VERBS[given[0]].arguments if given[0] in VERBS else ()
    options = {flag: argument for argument in arguments for flag in argument.flags if argument.optional}
    if last.startswith("-"):
        return options
    place = options.get(given[-1])
    if place is None or place.settings.get("action") == "store_true":
        places = [argument for argument in arguments if not argument.optional]
        place = places[min(len(given), len(places)) - 1] if places else None
    return _argument_words(place, last, variables) if place else ()


def _argument_words(place: Argument, last: str, variables: Mapping[str, Any]) -> Iterable[str]:
    """Complete one argument of a verb."""
    if place.kind == "keys":
        return _start_words(last, variables)
    if place.kind == "gguf":
        from ft_magic.export.mixtures import FILE_TYPES

        return [name.lower() for name in FILE_TYPES]
    if place.kind == "run":
        return [*_run_variables(variables), *_run_names()]
    if place.kind == "value":
        return [] if last else [f"${name}" for name in variables]
    return place.choices


def _run_variables(variables: Mapping[str, Any]) -> list[str]:
    """Return the variables that hold runs; by the class's module, so that nothing is imported for it."""
    return [name for name, held in variables.items() if type(held).__module__ == "ft_magic.run"]


def _run_names() -> list[str]:
    from ft_magic.paths import runs_dir

    return [file.parent.name for file in runs_dir().glob("[!.]*/run.json")]
