"""Built-in rewards that look at the form of an answer alone. Each maker checks its parameters once."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.rewards.answers import Score

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)


def length(min: float | None = None, max: float | None = None, unit: str = "words") -> Score:  # noqa: A002  the words users write
    """Return 1 within the limits; below it is length / min, above it falls to 0 at twice the maximum."""
    if min is None and max is None:
        raise SpecError(
            "reward 'length' has neither min nor max.", "Write for example {reward: length, max: 100}."
        )
    if min is not None and max is not None and min > max:
        raise SpecError(f"reward 'length': min {min:g} is above max {max:g}.", "Swap them.")

    def score(completion: str, _row: Mapping[str, Any]) -> float:
        size = len(completion.split()) if unit == "words" else len(completion)
        if min is not None and size < min:
            return size / min
        if max is not None and size > max:
            return 0.0 if size >= 2 * max else 2.0 - size / max
        return 1.0

    return score


def no_repetition(n: int = 3, unit: str = "words") -> Score:
    """Return different runs of n words / all runs of n words: 1 = nothing repeats."""

    def score(completion: str, _row: Mapping[str, Any]) -> float:
        parts = completion.split() if unit == "words" else list(completion)
        runs = [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
        return len(set(runs)) / len(runs) if runs else 1.0

    return score


def json_schema(schema: Mapping[str, Any] | None = None, partial: float = 0.5, fenced: bool = False) -> Score:
    """Return 1 for JSON that fits the schema, ``partial`` for JSON that does not, 0 for all else."""
    validator = _validator(schema) if schema is not None else None

    def score(completion: str, _row: Mapping[str, Any]) -> float:
        match = _FENCE.search(completion) if fenced else None
        try:
            value = json.loads(match[1] if match else completion, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if validator is None or validator.is_valid(value) else partial

    return score


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _validator(schema: Mapping[str, Any]) -> Any:
    """Return a validator that never fetches anything from the network.

    Raises:
        SpecError: jsonschema is missing, or the schema is none.
    """
    if find_spec("jsonschema") is None:
        raise SpecError(
            "reward 'json_schema' needs the package jsonschema, which is not installed.",
            'pip install "ft-magic[rewards]", or leave schema out to reward any JSON.',
        )
    import jsonschema
    import referencing

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its top"
        raise SpecError(
            f"reward 'json_schema': the schema is wrong at {where}: {error.message.splitlines()[0]}.",
            "Write a JSON Schema, as schema: {type: object, required: [name]}.",
        ) from error
    if elsewhere := [place for place in _references(schema) if not place.startswith("#")]:
        raise SpecError(
            f"reward 'json_schema': the schema refers to '{elsewhere[0]}', which is not in it.",
            "Put that part under $defs and refer to it as #/$defs/name: nothing is fetched in training.",
        )
    return kind(schema, registry=referencing.Registry())


def _references(schema: Any) -> Iterator[str]:
    """Yield where the parts of a schema refer to."""
    if isinstance(schema, Mapping):
        yield from (place for key, place in schema.items() if key == "$ref" and isinstance(place, str))
    parts = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for part in parts:
        yield from _references(part)


def language(language: str, among: Any = None) -> Score:
    """Return the probability that the answer is in the language, 0 to 1; 0 for an answer without letters."""
    if find_spec("py3langid") is None:
        raise SpecError(
            "reward 'language' needs the package py3langid, which is not installed.",
            'pip install "ft-magic[rewards]"',
        )
    identifier = _identifier(tuple(sorted({language, *(among or ())})) if among else ())
    known = list(identifier.labels)
    if language not in known:
        raise SpecError(
            f"reward 'language': '{language}' is no language code it knows.",
            f"Write an ISO 639-1 code as en, de, fr; known are: {', '.join(sorted(known))}.",
        )

    def score(completion: str, _row: Mapping[str, Any]) -> float:
        if not any(char.isalpha() for char in completion):
            return 0.0
        return float(dict(identifier.rank(completion))[language])

    return score


@functools.cache  # 0.3 s to read 4.6 MB of model (measured on a laptop-class CPU)
def _identifier(among: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    unknown = sorted(set(among) - set(identifier.labels))
    if unknown:
        raise SpecError(
            f"reward 'language': '{unknown[0]}' is no language code it knows.",
            f"Write ISO 639-1 codes as en, de, fr; known are: {', '.join(sorted(identifier.labels))}.",
        )
    if among:
        identifier.set_languages(list(among))
    return identifier
