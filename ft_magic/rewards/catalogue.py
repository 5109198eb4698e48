"""The built-in rewards: one table, from which checks, help and documentation come. A new one is one row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ft_magic.errors import SpecError, nearest
from ft_magic.rewards import answers, form
from ft_magic.rewards.answers import Score


@dataclass(frozen=True)
class Kind:
    """What a parameter may be: words for messages, and the test."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


_TEXT = Kind("a text", _is_text)
_TEXTS = Kind("a text or a list of texts", lambda value: _is_text(value) or _is_texts(value))
_LIST = Kind("a list of texts", _is_texts)
_SIZE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_COUNT = Kind(
    "a whole number of at least 1", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1
)
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_UNIT = Kind("words or characters", lambda value: value in ("words", "characters"))
_SCHEMA = Kind("a JSON Schema as a mapping", lambda value: isinstance(value, Mapping))


@dataclass(frozen=True)
class Parameter:
    """One setting of a built-in reward.

    Attributes:
        name: the word users write.
        kind: what it may be.
        title: what it is, in a few words.
        default: value where it is not given; None for "not used".
        required: whether it must be given.
        column: whether its value names a column of the data.
    """

    name: str
    kind: Kind
    title: str
    default: Any = None
    required: bool = False
    column: bool = False


@dataclass(frozen=True)
class BuiltIn:
    """One built-in reward.

    Attributes:
        name: the word users write.
        title: one sentence for tables and help.
        values: the values it gives.
        make: takes the parameters and returns the score of one answer.
        parameters: its settings.
        example: an item of ``rewards:``.
    """

    name: str
    title: str
    values: str
    make: Callable[..., Score]
    parameters: tuple[Parameter, ...] = ()
    example: str = ""


_WORDS = Parameter("unit", _UNIT, "what is counted: words or characters", "words")
_ANY_CASE = "whether capitals are all the same"
_ROWS = (
    BuiltIn(
        "exact_answer",
        "The final answer equals the column's: the number after #### or the last number; texts where there is none.",
        "0 or 1",
        answers.exact_answer,
        (Parameter("column", _TEXT, "column with the right answer", "answer", column=True),),
        "exact_answer",
    ),
    BuiltIn(
        "regex",
        "A pattern is found in the answer.",
        "0 or 1",
        answers.regex,
        (
            Parameter("pattern", _TEXT, "regular expression", required=True),
            Parameter("ignore_case", _FLAG, _ANY_CASE, default=False),
        ),
        r"{reward: regex, pattern: '^\d+$'}",
    ),
    BuiltIn(
        "contains",
        "The answer contains a text; of several, the share found.",
        "0 to 1",
        answers.contains,
        (
            Parameter("text", _TEXTS, "what to look for"),
            Parameter("column", _TEXT, "column with what to look for, a text or a list", column=True),
            Parameter("ignore_case", _FLAG, _ANY_CASE, default=True),
        ),
        "{reward: contains, column: answer}",
    ),
    BuiltIn(
        "length",
        "The answer keeps to a length: 1 within the limits, size / min below, falling to 0 at twice max above.",
        "0 to 1",
        form.length,
        (
            Parameter("min", _SIZE, "shortest answer with full score"),
            Parameter("max", _SIZE, "longest answer with full score"),
            _WORDS,
        ),
        "{reward: length, max: 100}",
    ),
    BuiltIn(
        "no_repetition",
        "The answer does not repeat itself: different runs of n words / all runs of n words.",
        "above 0 to 1",
        form.no_repetition,
        (Parameter("n", _COUNT, "length of a run", 3), _WORDS),
        "no_repetition",
    ),
    BuiltIn(
        "json_schema",
        "The answer is JSON that fits a schema; partial score for JSON that does not fit.",
        "0, partial or 1",
        form.json_schema,
        (
            Parameter("schema", _SCHEMA, "the JSON Schema; without one any JSON has full score"),
            Parameter("partial", _SHARE, "score of JSON that does not fit", 0.5),
            Parameter("fenced", _FLAG, "whether JSON in a ```json block counts", default=False),
        ),
        "{reward: json_schema, schema: {type: object, required: [name]}}",
    ),
    BuiltIn(
        "language",
        "Probability that the answer is in a language (py3langid); sure from about ten words on.",
        "0 to 1",
        form.language,
        (
            Parameter("language", _TEXT, "ISO 639-1 code: en, de, fr", required=True),
            Parameter("among", _LIST, "the only languages to choose from, which makes short answers surer"),
        ),
        "{reward: language, language: de, among: [de, en]}",
    ),
)
BUILT_IN: Mapping[str, BuiltIn] = MappingProxyType({row.name: row for row in _ROWS})


def check(row: BuiltIn, given: Mapping[str, Any], columns: Iterable[str] | None) -> dict[str, Any]:
    """Return the parameters of a built-in reward, defaults filled in.

    Args:
        row: the reward.
        given: its parameters as written.
        columns: of the data; None where they are not known.

    Raises:
        SpecError: an unknown or missing parameter, an impossible value, a column that is not there.
    """
    known = {parameter.name: parameter for parameter in row.parameters}
    for word in given:
        if word not in known:
            takes = ", ".join(known)
            raise SpecError(
                f"reward '{row.name}' has no parameter '{word}'.{nearest(word, known)}", f"It takes: {takes}."
            )
    found = {}
    for name, parameter in known.items():
        value = given.get(name, parameter.default)
        if value is None and parameter.required:
            raise SpecError(f"reward '{row.name}' needs {name}: {parameter.title}.", f"Write {row.example}.")
        if value is not None and not parameter.kind.fits(value):
            raise SpecError(
                f"reward '{row.name}': {name} is {value!r}, not {parameter.kind.words}.",
                f"Write {row.example}.",
            )
        if parameter.column and value is not None and columns is not None:
            _check_column(row, value, columns)
        found[name] = value
    row.make(**found)
    return found


def _check_column(row: BuiltIn, column: str, columns: Iterable[str]) -> None:
    there = [name for name in columns if name not in ("prompt", "completion")]
    if column not in there:
        raise SpecError(
            f"reward '{row.name}' reads column '{column}', which the data does not have.{nearest(column, there)}",
            f"Columns: {', '.join(there) or 'none besides the prompt'}. "
            f"Name the right one: {{reward: {row.name}, column: ...}}.",
        )
