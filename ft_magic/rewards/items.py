"""What the user gave as ``rewards``, as a list of items with unique names: functions, built-ins, runs, judges.

One of: a function, the name of a built-in, a reward run (object, name or folder), or a mapping with ``reward``,
``weight``, ``name`` and the parameters of a built-in; or a list of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.data.row import shortened
from ft_magic.errors import SpecError, nearest
from ft_magic.rewards.catalogue import BUILT_IN
from ft_magic.rewards.function import signature_of

if TYPE_CHECKING:
    from ft_magic.run import Run

JUDGE = "judge"
_OWN_KEYS = ("reward", "weight", "name")
_FORMS = "A reward is $function, a built-in name, a reward run, or {reward: one of these, weight: 2}."


@dataclass(frozen=True)
class Item:
    """One reward as asked for.

    Attributes:
        name: unique among the rewards of a run; the trainer's metrics carry it.
        kind: ``function``, ``builtin``, ``run`` or ``judge``.
        reward: the function's name, the built-in's name, the run's name, or ``judge``.
        weight: its factor in the sum.
        parameters: of a built-in or judge; of a run its ``path``.
        function: the function itself, for that kind.
    """

    name: str
    kind: str
    reward: str
    weight: float = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the item as plain JSON values; a function is known by its name."""
        return {
            "name": self.name,
            "kind": self.kind,
            "reward": self.reward,
            "weight": self.weight,
            "parameters": dict(self.parameters),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Item:
        """Rebuild an item from ``to_dict``'s values."""
        return cls(**raw)


def read(value: Any) -> tuple[Item, ...]:
    """Read what the user gave.

    Raises:
        SpecError: something in it is no reward, or two share a name.
    """
    given = list(value) if isinstance(value, list | tuple) else [value]
    if not given:
        raise SpecError("rewards is an empty list.", _FORMS)
    items: list[Item] = []
    for part in given:
        item = _item(part)
        taken = {other.name for other in items}
        if item.name in taken:
            item = _renamed(item, taken, part)
        items.append(item)
    if not any(item.weight for item in items):
        raise SpecError("rewards: every weight is 0, so every answer scores the same.", "Give one a weight.")
    return tuple(items)


def describe(value: Any) -> list[Any]:
    """Return what the user gave as plain values for a spec file: functions and runs by their names.

    Raises:
        SpecError: as ``read``.
    """
    given = list(value) if isinstance(value, list | tuple) else [value]
    words: list[Any] = []
    for part, item in zip(given, read(value), strict=True):
        words.append({**part, "reward": item.reward} if isinstance(part, Mapping) else item.reward)
    return words


def _item(part: Any) -> Item:
    if not isinstance(part, Mapping):
        return _plain(part, {})
    if "reward" not in part:
        raise SpecError(f"rewards: {shortened(part)} does not say which reward.", _FORMS)
    item = _plain(part["reward"], {key: value for key, value in part.items() if key not in _OWN_KEYS})
    weight, name = part.get("weight", 1.0), part.get("name", item.name)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise SpecError(
            f"reward '{item.name}': weight is {weight!r}, which is no number.", "Write weight: 2."
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise SpecError(
            f"reward '{item.name}': name is {name!r}, which is no word of letters, digits and _.",
            "Write for example name: short_answer.",
        )
    return Item(name, item.kind, item.reward, float(weight), item.parameters, item.function)


def _plain(reward: Any, parameters: Mapping[str, Any]) -> Item:
    """Return the item of a function, a word or a run."""
    if isinstance(reward, str):
        return _word(reward, parameters)
    run = _as_run(reward)
    if run is not None:
        return _run_item(run, parameters)
    if isinstance(reward, Mapping) or not callable(reward):
        raise SpecError(f"rewards: {shortened(reward)} ({type(reward).__name__}) is no reward.", _FORMS)
    signature = signature_of(reward)
    _no_parameters(signature.name, parameters, "a function's settings are its own constants")
    return Item(signature.name, "function", signature.name, function=reward)


def _word(word: str, parameters: Mapping[str, Any]) -> Item:
    if word in BUILT_IN:
        return Item(word, "builtin", word, parameters=dict(parameters))
    if word == JUDGE:
        return Item(word, JUDGE, word, parameters=dict(parameters))
    from ft_magic.paths import runs_dir

    folders = [
        folder for folder in (runs_dir() / word, Path(word).expanduser()) if (folder / "run.json").is_file()
    ]
    if folders:
        from ft_magic.run import Run

        return _run_item(Run(folders[0]), parameters)
    names = [*BUILT_IN, *(file.parent.name for file in runs_dir().glob("[!.]*/run.json"))]
    raise SpecError(
        f"reward '{word}' does not exist.{nearest(word, names)}",
        f"Built-in rewards: {', '.join(BUILT_IN)}. A function of your own is ${word}, a reward run its name.",
    )


def _as_run(value: Any) -> Run | None:
    if type(value).__module__ != "ft_magic.run":
        return None
    from ft_magic.run import Run

    return value if isinstance(value, Run) else None


def _run_item(run: Run, parameters: Mapping[str, Any]) -> Item:
    """Return the item of a reward-model run.

    Raises:
        SpecError: it trained no reward model, or has no result.
    """
    _no_parameters(run.name, parameters, "a reward run has none")
    if not run.plan.method.score_head:
        raise SpecError(
            f"rewards: run {run.name} trained with method {run.plan.spec.method}, which gives no scores.",
            "Train a reward model on preference pairs with %%reward, and give that run.",
        )
    if not (run.folder.adapter.exists() or run.folder.model.exists()):
        raise SpecError(
            f"rewards: run {run.name} is {run.status}, so it has no reward model yet.",
            f"Finish it with %ft resume {run.name}.",
        )
    word = "".join(char if char.isalnum() else "_" for char in run.name)
    name = word if word.isidentifier() else f"run_{word}"
    return Item(name, "run", run.name, parameters={"path": str(run.path)})


def _no_parameters(name: str, parameters: Mapping[str, Any], why: str) -> None:
    if parameters:
        given = ", ".join(parameters)
        raise SpecError(
            f"reward '{name}' takes no parameters ({why}), but has: {given}.",
            f"Keys: {', '.join(_OWN_KEYS)}.",
        )


def _renamed(item: Item, taken: set[str], part: Any) -> Item:
    """Number a built-in that stands twice; refuse two functions or given names that are equal."""
    if item.kind != "builtin" or (isinstance(part, Mapping) and "name" in part):
        raise SpecError(
            f"rewards: two of them are called '{item.name}'.",
            "Give one another name: {reward: ..., name: ...}.",
        )
    number = next(n for n in range(2, len(taken) + 2) if f"{item.name}_{n}" not in taken)
    return Item(f"{item.name}_{number}", item.kind, item.reward, item.weight, item.parameters)
