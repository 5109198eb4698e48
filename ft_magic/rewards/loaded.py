"""The rewards of a run, ready to score answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.errors import RunError
from ft_magic.rewards import trial
from ft_magic.rewards.catalogue import BUILT_IN
from ft_magic.rewards.function import ScoreError, Signature, call, finite, signature_of
from ft_magic.rewards.items import Item
from ft_magic.rewards.texts import prompt_text, visible
from ft_magic.rewards.trial import Scorer

if TYPE_CHECKING:
    from ft_magic.planning.plans import Plan

ITEMS_FILE, SOURCE_FILE = "rewards.json", "rewards.py"
Say = Callable[[str], object]


@dataclass(frozen=True)
class Place:
    """Where rewards score.

    Attributes:
        functions: name -> the user's function.
        folder: run folder, which keeps a judge's replies.
        device: ``cpu`` or ``cuda``, for reward models.
        say: told what a reader of the run should know, or None.
    """

    functions: Mapping[str, Any]
    folder: Path = Path()
    device: str = "cpu"
    say: Say | None = None


@dataclass(frozen=True)
class Reward:
    """One reward, ready to score."""

    name: str
    weight: float
    scorer: Scorer

    def score(
        self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> list[float]:
        """Return one finite number an answer.

        Raises:
            RunError: the reward failed; says on which answer.
        """
        return trial.scored(self.name, self.scorer, prompts, completions, visible(columns))


@dataclass(frozen=True)
class Rewards:
    """Every reward of a run, in the order given."""

    parts: tuple[Reward, ...]

    @property
    def names(self) -> list[str]:
        """Names, unique."""
        return [part.name for part in self.parts]

    @property
    def weights(self) -> list[float]:
        """Factors in the sum."""
        return [part.weight for part in self.parts]

    def scores(
        self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> list[list[float]]:
        """Return the scores of each reward.

        Args:
            prompts: ``(answers,)``: the last user turn as text, or the whole prompt as messages, which reward
                models then read as a whole.
            completions: ``(answers,)``.
            columns: each ``(answers,)``.

        Returns:
            ``(rewards, answers)``.

        Raises:
            RunError: a reward failed; says which, and on which answer.
        """
        return [part.score(prompts, completions, columns) for part in self.parts]

    def weighted(self, scores: Sequence[Sequence[float]]) -> list[float]:
        """Return the weighted sum of what ``scores`` returned, ``(answers,)``."""
        return [
            sum(w * s for w, s in zip(self.weights, row, strict=True)) for row in zip(*scores, strict=True)
        ]

    def total(
        self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> list[float]:
        """Return the weighted sum of the scores, ``(answers,)``; arguments as ``scores``."""
        return self.weighted(self.scores(prompts, completions, columns))


def load(folder: Path, plan: Plan, *, without: Collection[str] = (), say: Say | None = None) -> Rewards:
    """Load the rewards that ``Prepared.write`` left in a run folder.

    Args:
        folder: run folder.
        plan: of the run.
        without: names of rewards that are computed elsewhere.
        say: told what a reader should know, as a judge's replies that cannot be read.

    Raises:
        RunError: they are missing or damaged.
    """
    items = read_items(folder)
    functions = functions_of(_read(folder / SOURCE_FILE), str(folder / SOURCE_FILE))
    place = Place(functions, folder, plan.settings.device, say)
    kept = [item for item in items if item.name not in without]
    return Rewards(tuple(Reward(item.name, item.weight, scorer_of(item, place)) for item in kept))


def read_items(folder: Path) -> tuple[Item, ...]:
    """Return what is rewarded in a run, without loading anything.

    Raises:
        RunError: ``rewards.json`` is missing or damaged.
    """
    try:
        return tuple(Item.from_dict(raw) for raw in json.loads(_read(folder / ITEMS_FILE))["rewards"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder, error) from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(file.parent, error) from error


def _unreadable(folder: Path, error: Exception) -> RunError:
    return RunError(
        f"the rewards of {folder.name} cannot be read: {type(error).__name__}: {error}.",
        f"Start the run again; it writes {ITEMS_FILE} and {SOURCE_FILE}.",
    )


def functions_of(text: str, path: str) -> dict[str, Any]:
    """Run a module's text in a namespace of its own and return what it defines.

    Raises:
        RunError: it fails.
    """
    namespace: dict[str, Any] = {"__name__": "rewards", "__file__": path}
    try:
        exec(compile(text, path, "exec"), namespace)  # noqa: S102  the user's own functions
    except Exception as error:  # the user's own code may raise anything
        raise RunError(
            f"the reward functions do not stand alone: {type(error).__name__}: {error}.",
            f"Look at {path}: what it uses must be a number, text, list, dict, function or import.",
        ) from error
    return namespace


def scorer_of(item: Item, place: Place) -> Scorer:
    """Return what scores a batch for one item."""
    return _SCORERS[item.kind](item, place)


def function_scorer(function: Callable[..., Any], signature: Signature) -> Scorer:
    """Return the scorer of a user's function; it gets prompts as text."""

    def score(
        prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> list[float]:
        return call(function, signature, [prompt_text(p) for p in prompts], completions, columns)

    return score


def _function(item: Item, place: Place) -> Scorer:
    function = place.functions[item.reward]
    return function_scorer(function, signature_of(function, item.name))


def _builtin(item: Item, _place: Place) -> Scorer:
    one = BUILT_IN[item.reward].make(**item.parameters)

    def score(
        _prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> list[float]:
        scores = []
        for row, completion in enumerate(completions):
            try:
                value = one(completion, {name: values[row] for name, values in columns.items()})
            except KeyError as error:
                raise ScoreError(f"reads column {error}, which these rows lack", row) from error
            scores.append(finite(value, row))
        return scores

    return score


def _run(item: Item, place: Place) -> Scorer:
    from ft_magic.rewards.model import scorer

    return scorer(Path(item.parameters["path"]), place.device)


def _judge(item: Item, place: Place) -> Scorer:
    from ft_magic import judging

    def say(message: str) -> None:
        if place.say is not None:
            place.say(message)

    def score(
        prompts: Sequence[Any], completions: Sequence[str], _columns: Mapping[str, Sequence[Any]]
    ) -> list[float]:
        asked = [prompt_text(prompt) for prompt in prompts]
        return judging.score(item.parameters["judge"], asked, completions, folder=place.folder, say=say)

    return score


_SCORERS: Mapping[str, Callable[[Item, Place], Scorer]] = MappingProxyType(
    {"function": _function, "builtin": _builtin, "run": _run, "judge": _judge}
)
