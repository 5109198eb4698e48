"""Check rewards before a run exists: what was given, that it works, and that it works on its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft_magic import atomic
from ft_magic.errors import SpecError
from ft_magic.rewards import source, trial
from ft_magic.rewards.catalogue import BUILT_IN, check
from ft_magic.rewards.function import check_columns, signature_of
from ft_magic.rewards.items import JUDGE, Item, read
from ft_magic.rewards.loaded import ITEMS_FILE, SOURCE_FILE, Place, function_scorer, functions_of, scorer_of
from ft_magic.rewards.trial import Attempts, Trial

# Rows tried before a run starts: enough to meet another kind of row, few enough to cost nothing.
_TRIED_ROWS = 4


@dataclass(frozen=True)
class Prepared:
    """Rewards that work on sample rows.

    Attributes:
        items: one mapping a reward, in plain JSON values.
        source: a module that defines every function among them.
        trials: what each function and built-in did on the sample rows.
        notes: what a reader should know, in sentences.
    """

    items: tuple[Mapping[str, Any], ...]
    source: str
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cautions(self) -> tuple[tuple[str, str], ...]:
        """What a reader should act on, each with its fix."""
        return tuple(caution for trial in self.trials for caution in trial.cautions())

    def write(self, folder: Path) -> None:
        """Write ``rewards.json`` and ``rewards.py`` into a run folder."""
        atomic.write_text(folder / SOURCE_FILE, self.source)
        atomic.write_json(folder / ITEMS_FILE, {"v": 1, "rewards": [dict(item) for item in self.items]})


def prepare(
    value: Any, columns: Sequence[str], samples: Sequence[Mapping[str, Any]], *, judge: Any = None
) -> Prepared:
    """Check rewards and try them on sample rows.

    Args:
        value: what the user gave as ``rewards``.
        columns: names of the data's columns.
        samples: rows of the data, each with a ``prompt``; the first few are tried.
        judge: what the spec's ``judge`` holds, for ``rewards: judge``.

    Raises:
        SpecError: something is no reward, asks for what is not there, fails on a row, or would not work in the
            training process.
    """
    items = [_checked(item, columns, judge) for item in read(value)]
    functions = {item.reward: item.function for item in items if item.function is not None}
    text = source.gather(functions)
    place = Place(alone_functions(text) if functions else {})
    tried = trial.attempts(samples[:_TRIED_ROWS], columns)
    trials, notes = [], []
    for item in items:
        if item.function is not None:
            made, note = try_function(item.name, item.function, place.functions[item.reward], tried)
            trials.append(made)
            notes += note
        elif item.reward in BUILT_IN:
            trials.append(trial.run(item.name, scorer_of(item, place), tried))
    plain = tuple(_plain(item) for item in items)
    return Prepared(plain, text, tuple(trials), tuple(notes))


def alone_functions(text: str) -> dict[str, Any]:
    """Run the gathered source in an empty namespace.

    Raises:
        SpecError: it does not stand alone.
    """
    from ft_magic.errors import RunError

    try:
        return functions_of(text, SOURCE_FILE)
    except RunError as error:
        raise SpecError(error.problem, "Define what it uses inside the function or beside it.") from error


def try_function(name: str, live: Any, alone: Any, tried: Attempts) -> tuple[Trial, list[str]]:
    """Try a function and its copy that stands alone; both must score alike.

    Returns:
        The live function's trial, and notes on it.

    Raises:
        SpecError: it fails on an answer, or its copy scores otherwise.
    """
    signature = signature_of(live, name)
    first = trial.run(name, function_scorer(live, signature), tried)
    copy = trial.run(name, function_scorer(alone, signature), tried)
    if copy.scores == first.scores:
        return first, []
    again = trial.run(name, function_scorer(live, signature), tried)
    if again.scores != first.scores:
        return first, [f"Reward '{name}' scores the same answer differently each time."]
    at = next(i for i, score in enumerate(first.scores) if score != copy.scores[i])
    raise SpecError(
        f"reward '{name}' scores {first.scores[at]:g} here and {copy.scores[at]:g} from its source alone "
        f"(sample row {tried.rows[at]}): its file is newer than the function, or something it uses has changed.",
        "Run the cell that defines it again, and keep what it uses constant.",
    )


def _checked(item: Item, columns: Sequence[str], judge: Any) -> Item:
    """Check an item against the data."""
    if item.function is not None:
        check_columns(signature_of(item.function), columns)
    elif item.reward in BUILT_IN:
        return replace(item, parameters=check(BUILT_IN[item.reward], item.parameters, columns))
    elif item.kind == JUDGE:
        return replace(item, parameters={"judge": _judge(item, judge)})
    return item


def _judge(item: Item, judge: Any) -> Any:
    """Return the judge of an item as plain values.

    Raises:
        SpecError: none is named, or it cannot be understood.
    """
    from ft_magic.judging import settings

    given = dict(item.parameters) or judge
    if given is None:
        raise SpecError(
            "rewards: judge is asked for, but no judge is named.",
            "Write {reward: judge, model: demo}, or judge: demo beside rewards.",
        )
    settings.read(given)
    return settings.described(given)


def _plain(item: Item) -> Mapping[str, Any]:
    """Return an item as plain JSON values.

    Raises:
        SpecError: a parameter is none.
    """
    raw = item.to_dict()
    try:
        json.dumps(raw, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"reward '{item.name}': a parameter cannot be written down: {error}.",
            "Use numbers, texts, lists and mappings.",
        ) from error
    return raw
