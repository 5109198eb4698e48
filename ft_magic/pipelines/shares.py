"""Which settings of a pipeline go to which of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_magic.axes import METHODS, SIGNALS
from ft_magic.axes.pipelines import Pipeline, Stage
from ft_magic.data import Data
from ft_magic.errors import SpecError, nearest
from ft_magic.spec import Spec, parse

# Settings of the pipeline itself, and those that it fills for each stage.
_OWN = ("model", "data", "method", "name", "stages", "if_exists", "eval_data", "detach")
_METHOD_KEYS = frozenset(key for method in METHODS.values() for key in method.options)

Shares = Mapping[str, Mapping[str, Any]]


def shares(pipeline: Pipeline, given: Mapping[str, Any]) -> Shares:
    """Return the settings of each stage by its name, checked as far as can be before anything runs.

    A key goes to every stage that reads it, ``trainer`` to the last one alone; ``stages: {NAME: {...}}`` overrides.

    Raises:
        SpecError: a key no stage reads, a stage that does not exist, a missing or impossible value; all in one.
    """
    problems = _missing(pipeline, given)
    found: dict[str, dict[str, Any]] = {stage.name: {} for stage in pipeline.stages}
    for key, value in given.items():
        if key in _OWN:
            continue
        readers = _readers(pipeline, key)
        if not readers:
            problems.append(_unread(pipeline, key))
        for stage in readers:
            found[stage.name][key] = value
    problems += _override(pipeline, given.get("stages"), found)
    if given.get("detach") in (True, "yes", "on", "true"):
        way = "Leave detach out; interrupted, the same cell goes on where it stopped."
        problems.append(
            SpecError(f"{pipeline.name} starts its runs from this process and cannot detach.", way)
        )
    for stage in pipeline.stages:
        if stage.method and not problems:
            parse(_stand_in(stage, given, found[stage.name]))
    _raise(problems)
    return found


def _missing(pipeline: Pipeline, given: Mapping[str, Any]) -> list[SpecError]:
    described = {key: Spec.model_fields[key].description for key in ("model", "data", *pipeline.needs)}
    return [
        SpecError(f"{pipeline.name} needs {key}, and none is given.", f"Add `{key}: ...` ({text}).")
        for key, text in described.items()
        if given.get(key) is None
    ]


def _readers(pipeline: Pipeline, key: str) -> list[Stage]:
    """Return the stages a key goes to."""
    training = [stage for stage in pipeline.stages if stage.method]
    if key == "trainer":
        return training[-1:]
    if key in _OWN or key not in Spec.model_fields:
        return []
    return [stage for stage in pipeline.stages if _reads(stage, key)]


def _reads(stage: Stage, key: str) -> bool:
    if not stage.method:
        return key in stage.options
    if key == "rewards" and stage.rewards:
        return False  # filled with the run of an earlier stage
    return key not in _METHOD_KEYS or key in METHODS[stage.method].options


def _unread(pipeline: Pipeline, key: str) -> SpecError:
    if key not in Spec.model_fields:
        return SpecError(f"unknown key '{key}'.{nearest(key, Spec.model_fields)}", "See %%finetune --help.")
    names = ", ".join(stage.name for stage in pipeline.stages)
    return SpecError(f"no stage of {pipeline.name} reads '{key}' ({names}).", f"Leave {key} out.")


def _override(pipeline: Pipeline, asked: Any, found: dict[str, dict[str, Any]]) -> list[SpecError]:
    """Apply ``stages:`` and return what is wrong with it."""
    example = f"Write stages: {{{pipeline.stages[-1].name}: {{max_steps: 50}}}}."
    if asked is None:
        return []
    if not isinstance(asked, Mapping):
        return [SpecError("stages is no mapping of stage names to settings.", example)]
    problems = []
    rows = {stage.name: stage for stage in pipeline.stages}
    for name, settings in asked.items():
        if name not in rows or not isinstance(settings, Mapping):
            hint = nearest(str(name), rows)
            problems.append(
                SpecError(
                    f"stages: '{name}' is no stage with settings.{hint}",
                    f"Stages: {', '.join(rows)}. {example}",
                )
            )
            continue
        for key, value in settings.items():
            if key in _OWN or key not in Spec.model_fields or not _reads(rows[name], key):
                hint = nearest(str(key), Spec.model_fields) if key not in Spec.model_fields else ""
                problems.append(
                    SpecError(f"stages: {name} does not read '{key}'.{hint}", f"Leave {key} out.")
                )
            else:
                found[name][key] = value
    return problems


def _stand_in(stage: Stage, given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec of the stage's shape, to check names and types before anything runs."""
    name = f"{given['name']}-{stage.name}" if given.get("name") is not None else None
    return {
        **settings,
        "model": "checked later",
        "data": "checked later",
        "method": stage.method,
        "name": name,
    }


def _raise(problems: list[SpecError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = [f"- {error.problem} {error.instead}".strip() for error in problems]
        raise SpecError(f"{len(problems)} things in this spec cannot be:", "\n".join(lines))


def convertible(data: Data, signal: str) -> bool:
    """Return whether rows carry a signal or can be turned into it."""
    return data.signal == signal or signal in SIGNALS[data.signal].converts_to
