"""A function as a text that stands alone: its source with the imports, constants and helpers it uses.

Reward functions are written in a notebook and run in another process, maybe days later: they travel as source.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.rewards import modules
from ft_magic.rewards.literal import NotLiteralError, literal

_HEAD = (
    '"""Reward functions of this run, with everything they use."""\n\nfrom __future__ import annotations\n'
)
# A constant longer than this belongs in a file (1 MB of source takes about a second to compile).
_MOST_CHARACTERS = 1_000_000
_SECRET_NAME = re.compile(r"(?i)(api_?key|secret|passw(or)?d|credential)")
_SECRET_VALUE = re.compile(r"(sk-|hf_|ghp_|github_pat_|xox[bp]-|AKIA)[\w-]{12,}")


@dataclass
class Sources:
    """The parts of a module, in the order they are written: each name once."""

    imports: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the module."""
        imports = [line for lines in self.imports.values() for line in lines.splitlines()]
        blocks = ["\n".join(dict.fromkeys(imports)), "\n".join(self.constants.values())]
        parts = [_HEAD, *(block + "\n" for block in blocks if block)]
        return "\n".join(parts) + "".join(f"\n\n{text}" for text in self.functions.values())


def gather(functions: Mapping[str, Callable[..., Any]]) -> str:
    """Return a module that defines the functions under these names and needs nothing else.

    Raises:
        SpecError: a function's source is unknown, or it uses something that cannot be written down.
    """
    sources = Sources()
    for name, function in functions.items():
        _add_function(name, function, sources, f"reward '{name}'")
    return sources.text()


def _add_function(name: str, function: Any, sources: Sources, who: str) -> None:
    """Add a function and, before it, what it uses."""
    if _known(name, function, sources, who):
        return
    plain: FunctionType = inspect.unwrap(function)
    if plain.__code__.co_freevars:
        taken = plain.__code__.co_freevars[0]
        raise SpecError(
            f"{who} uses '{taken}' of the function around it, which does not travel to the training process.",
            f"Define {name} at the top level of a cell, and '{taken}' inside it or as a constant beside it.",
        )
    text = _source(plain, who)
    if plain.__name__ != name:
        raise SpecError(
            f"{who}: '{name}' is another name for the function '{plain.__name__}'.",
            f"Use {plain.__name__}, or define {name} with def.",
        )
    for used in sorted(word for word in _global_names(text) if not word.startswith("__")):
        if used in plain.__globals__:
            _add_value(used, plain.__globals__[used], text, sources, who)
        elif not hasattr(builtins, used) and used in plain.__code__.co_names and used != name:
            raise SpecError(
                f"{who} uses '{used}', which is not defined.", f"Run the cell that defines '{used}' first."
            )
    sources.functions[name] = text


def _add_value(name: str, value: Any, text: str, sources: Sources, who: str) -> None:
    """Add what a global name stands for: a module, something imported, a helper function, or a constant."""
    if isinstance(value, ModuleType):
        if not modules.installed(value.__name__):
            raise SpecError(
                f"{who} uses module '{value.__name__}', which is not installed: the training process may not "
                "find it.",
                "Install it as a package, or define what you need beside the reward function.",
            )
        _known(name, value, sources, who)
        before = sources.imports.get(name, "").splitlines()
        lines = dict.fromkeys([*before, *modules.imports_of_module(name, value, text)])
        sources.imports[name] = "\n".join(lines)
    elif line := modules.import_of_object(name, value):
        if not _known(name, value, sources, who):
            sources.imports[name] = line
    elif callable(value) and inspect.isfunction(inspect.unwrap(value)):
        _add_function(name, value, sources, who)
    else:
        _add_constant(name, value, sources, who)


def _add_constant(name: str, value: Any, sources: Sources, who: str) -> None:
    if _known(name, value, sources, who):
        return
    try:
        text = literal(value)
    except NotLiteralError as error:
        what = f"of type {type(error.value).__name__}" + ("," if error.value is value else " inside,")
        what = ", a class," if isinstance(value, type) else f" {what}"
        raise SpecError(
            f"{who} uses '{name}'{what} which cannot be written into the run's files.",
            f"Make '{name}' inside the function, or let it be a number, text, list, dict, function or import.",
        ) from error
    if len(text) > _MOST_CHARACTERS:
        raise SpecError(
            f"{who} uses '{name}', which is {len(text):,} characters long when written down.",
            "Keep it in a file and read that inside the function, or put it into a column of the data.",
        )
    if _SECRET_VALUE.search(text) or (isinstance(value, str) and value and _SECRET_NAME.search(name)):
        raise SpecError(
            f"{who} uses '{name}', which looks like a secret; it would be written into the run's files.",
            f'Read it inside the function: os.environ["{name.upper()}"].',
        )
    if "re.compile(" in text:
        sources.imports.setdefault("re", "import re")
    sources.constants[name] = f"{name} = {text}"


def _known(name: str, value: Any, sources: Sources, who: str) -> bool:
    """Tell whether a name is written already; refuse two things of one name."""
    if name not in sources.objects:
        sources.objects[name] = value
        return False
    if sources.objects[name] is value or _equal(sources.objects[name], value):
        return True
    raise SpecError(
        f"{who} uses '{name}', and another reward of this run uses something else of that name.",
        "Give one of them another name.",
    )


def _equal(one: Any, other: Any) -> bool:
    try:
        return literal(one) == literal(other)
    except NotLiteralError:
        return False


def _source(function: FunctionType, who: str) -> str:
    """Return a function's source, decorators included, without indentation."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError) as error:
        raise SpecError(
            f"{who}: the source of '{function.__name__}' cannot be found.",
            "Define it with def in a notebook cell (%%reward_fn) or in a file.",
        ) from error
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise SpecError(
            f"{who}: '{function.__name__}' is not made with def.", "Define it with def, on lines of its own."
        )
    return text.rstrip() + "\n"


def _global_names(text: str) -> set[str]:
    """Return the names a function's source takes from the module around it.

    Annotations are left out: the module they are written to does not evaluate them.
    """
    code = compile(f"from __future__ import annotations\n{text}", "<reward>", "exec")
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    return {str(i.argval) for part in _codes(code) for i in dis.get_instructions(part) if i.opname in loads}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
