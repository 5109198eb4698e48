"""A reward function of the user: what its parameters ask for, how it is called, what it may return.

Row style takes one answer and returns one number: ``def f(completion, answer)``. Batch style takes lists and
returns a list: ``def f(completions, answer)``. Parameters are ``prompt``, ``completion`` (or the plural) and
names of columns; ``**columns`` takes every column.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_magic.data.row import shortened
from ft_magic.errors import SpecError, nearest

_ROW, _BATCH = ("completion", "prompt"), ("completions", "prompts")
_EXAMPLE = "Write for example `def {name}(completion, answer): return 1.0 if answer in completion else 0.0`."


class ScoreError(Exception):
    """A reward gave no usable score.

    Args:
        problem: what it did, beginning with a verb.
        row: index of the answer in the batch, or None where it concerns all of them.
    """

    def __init__(self, problem: str, row: int | None = None) -> None:
        self.problem, self.row = problem, row
        super().__init__(problem)


@dataclass(frozen=True)
class Signature:
    """What a reward function asks for.

    Attributes:
        name: of the function.
        batch: whether it takes lists and returns a list.
        prompt: whether it reads the prompt.
        reads: columns it must get.
        may_read: columns it takes where there are such; their parameters have defaults.
        rest: whether it takes every further column (``**columns``).
    """

    name: str
    batch: bool
    prompt: bool
    reads: tuple[str, ...]
    may_read: tuple[str, ...]
    rest: bool

    @property
    def style(self) -> str:
        """How it is called, in words."""
        return (
            "batch: lists in, a list of numbers out" if self.batch else "row: one answer in, one number out"
        )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every name it must get."""
        own = _BATCH if self.batch else _ROW
        return (own[0], *([own[1]] if self.prompt else []), *self.reads)


def signature_of(function: Any, name: str | None = None) -> Signature:
    """Read a function's parameters.

    Args:
        function: what the user gave.
        name: what to call it in messages; by default its own name.

    Raises:
        SpecError: it is no plain function with a name, or asks for no answer.
    """
    name = name or str(getattr(function, "__name__", type(function).__name__))
    _check_kind(function, name)
    parameters = inspect.signature(function).parameters.values()
    names = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if len(names) < sum(p.kind is not p.VAR_KEYWORD for p in parameters):
        raise SpecError(
            f"reward '{name}' has parameters without a name to give them by (*args or `/`).",
            "Its parameters are prompt, completion and names of columns; **columns takes all of them.",
        )
    batch = _is_batch(name, names)
    own = _BATCH if batch else _ROW
    columns = [p for p in names.values() if p.name not in own]
    return Signature(
        name=name,
        batch=batch,
        prompt=own[1] in names,
        reads=tuple(p.name for p in columns if p.default is p.empty),
        may_read=tuple(p.name for p in columns if p.default is not p.empty),
        rest=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _check_kind(function: Any, name: str) -> None:
    """Refuse what has no source that could travel, or cannot be called as a reward is."""
    what = ""
    if isinstance(function, type) or not callable(function):
        what = f"is a {type(function).__name__}" if not isinstance(function, type) else "is a class"
    elif isinstance(function, functools.partial):
        what = "is a functools.partial"
    elif name == "<lambda>":
        what = "is a lambda, which has no name to be known by"
    elif not inspect.isfunction(inspect.unwrap(function)):
        what = "is a method" if inspect.ismethod(function) else f"is a {type(function).__name__} object"
    elif inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        what = "is async or yields"
    if what:
        raise SpecError(f"reward '{name}' {what}, not a plain function.", _EXAMPLE.format(name="correct"))


def _is_batch(name: str, names: Mapping[str, Any]) -> bool:
    given = [word for word in (_ROW[0], _BATCH[0]) if word in names]
    if len(given) == 1:
        return given[0] == _BATCH[0]
    why = "both completion and completions" if given else f"({', '.join(names)}): no completion among them"
    hint = (
        "" if given else next((hint for word in names if (hint := nearest(word, (_ROW[0], _BATCH[0])))), "")
    )
    raise SpecError(f"reward '{name}' asks for {why}.{hint}", _EXAMPLE.format(name=name))


def check_columns(signature: Signature, columns: Iterable[str]) -> None:
    """Check that the data has what a function asks for.

    Raises:
        SpecError: a parameter that is no column.
    """
    there = [name for name in columns if name not in ("prompt", "completion")]
    for word in signature.reads:
        if word in there:
            continue
        own = _BATCH if signature.batch else _ROW
        raise SpecError(
            f"reward '{signature.name}' asks for '{word}', which is no column of the data."
            f"{nearest(word, [*there, *own])}",
            f"Columns: {', '.join(there) or 'none besides the prompt'}. "
            f"Besides them a reward may ask for {own[1]} and {own[0]}.",
        )


def call(
    function: Callable[..., Any],
    signature: Signature,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
) -> list[float]:
    """Score answers.

    Returns:
        One finite number an answer, ``(answers,)``.

    Raises:
        ScoreError: the function raised, or returned something else.
    """
    wanted = {
        name: values
        for name, values in columns.items()
        if signature.rest or name in signature.reads or name in signature.may_read
    }
    if missing := [name for name in signature.reads if name not in wanted]:
        raise ScoreError(f"asks for '{missing[0]}', which is no column of these rows")
    if signature.batch:
        return _call_batch(function, signature, prompts, completions, wanted)
    scores = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        given = {name: values[row] for name, values in wanted.items()} | {_ROW[0]: completion}
        given |= {_ROW[1]: prompt} if signature.prompt else {}
        try:
            value = function(**given)
        except Exception as error:  # the user's own code may raise anything
            raise ScoreError(_raised(error), row) from error
        scores.append(finite(value, row))
    return scores


def _call_batch(
    function: Callable[..., Any],
    signature: Signature,
    prompts: Sequence[str],
    completions: Sequence[str],
    wanted: Mapping[str, Sequence[Any]],
) -> list[float]:
    given = {name: list(values) for name, values in wanted.items()} | {_BATCH[0]: list(completions)}
    given |= {_BATCH[1]: list(prompts)} if signature.prompt else {}
    try:
        returned = function(**given)
    except Exception as error:  # the user's own code may raise anything
        raise ScoreError(_raised(error)) from error
    if isinstance(returned, str | Mapping) or not isinstance(returned, Iterable):
        raise ScoreError(
            f"returned {shortened(returned)}, a {type(returned).__name__}, not a list of {len(completions)} scores"
        )
    values = list(returned)
    if len(values) != len(completions):
        raise ScoreError(f"returned {len(values)} scores for {len(completions)} answers")
    return [finite(value, row) for row, value in enumerate(values)]


def finite(value: Any, row: int) -> float:
    """Return a score as a float: numbers, flags, and scalars of numpy and torch are scores.

    Raises:
        ScoreError: it is no number, or not a finite one.
    """
    scalar = hasattr(value, "__float__") and not isinstance(value, str) and not getattr(value, "ndim", 0)
    number = float(value) if scalar else None
    if number is None:
        kind = "None (does every way through it end in a return?)" if value is None else type(value).__name__
        raise ScoreError(
            f"returned {kind}" if value is None else f"returned {shortened(value)}, a {kind}, not a number",
            row,
        )
    if not math.isfinite(number):
        raise ScoreError(f"returned {number}, which is no finite number", row)
    return number


def _raised(error: Exception) -> str:
    return f"failed with {type(error).__name__}: {shortened(str(error), 160)}{_where(error)}"


def _where(error: Exception) -> str:
    """Return the line of the user's code that failed, where its text is known."""
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" (line {frames[0].lineno}: {frames[0].line})" if frames and frames[0].line else ""
