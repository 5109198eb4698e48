"""What judges the answers of a model in training: rewards, or a judge that compares two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ft_magic.backends import Emit
from ft_magic.planning.plans import Plan
from ft_magic.rewards import Rewards
from ft_magic.rewards.loaded import ITEMS_FILE

Row = Mapping[str, Any]
_OURS = (
    "prompt",
    "prompt_ids",
    "completion_ids",
    "prompt_text",
)  # columns of tokenized rows that are not the user's
A_TIE = -1


Preferring = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[int]]


@dataclass(frozen=True)
class Scorer:
    """Judges answers to tokenized prompt rows.

    Attributes:
        rewards: scores single answers, or None.
        judge: compares two answers (0 = the first is better, 1 = the second, -1 = a tie), or None.
    """

    rewards: Rewards | None = None
    judge: Preferring | None = None

    def scores(self, rows: Sequence[Row], answers: Sequence[str]) -> list[list[float]]:
        """Return one list of scores a reward: (rewards, answers)."""
        if self.rewards is None:
            return []
        return self.rewards.scores([row["prompt"] for row in rows], list(answers), columns_of(rows))

    def totals(self, rows: Sequence[Row], answers: Sequence[str]) -> tuple[list[float], dict[str, float]]:
        """Return the weighted score of each answer, and the mean of each reward by name."""
        if self.rewards is None:
            return [], {}
        found = self.scores(rows, answers)
        means = {
            f"rewards/{name}/mean": sum(scores) / len(scores)
            for name, scores in zip(self.rewards.names, found, strict=True)
        }
        weighted = self.rewards.weighted(found)
        return weighted, means | {"reward": sum(weighted) / len(weighted)}

    def prefer(
        self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]
    ) -> tuple[list[int], dict[str, float]]:
        """Return which of two answers is better for each row, and what to chart."""
        if self.judge is not None:
            verdicts = self.judge([row["prompt_text"] for row in rows], first, second)
            return verdicts, {}
        totals, metrics = self.totals([*rows, *rows], [*first, *second])
        pairs = zip(totals[: len(rows)], totals[len(rows) :], strict=True)
        return [A_TIE if a == b else int(b > a) for a, b in pairs], metrics


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the user's columns of tokenized prompt rows; a value that is missing is None."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _OURS)
    return {name: [row.get(name) for row in rows] for name in names}


def load_scorer(folder: Path, plan: Plan, emit: Emit | None = None) -> Scorer | None:
    """Return what judges answers in this run, or None where nothing does.

    Args:
        folder: run folder.
        plan: of the run.
        emit: where a judge's unreadable replies are told.
    """

    def say(message: str) -> None:
        if emit is not None:
            emit("warning", message=message, fix="They count as ties, or get the mean of the others.")

    if (folder / ITEMS_FILE).exists():
        from ft_magic.rewards import load

        return Scorer(rewards=load(folder, plan, say=say))
    if plan.spec.judge is None:
        return None
    from ft_magic.judging import prefer

    return Scorer(judge=partial(prefer, plan.spec.judge, folder=folder, say=say))


def reward_functions(scorer: Scorer, rows: Sequence[Row]) -> list[Callable[..., list[float]]]:
    """Return the rewards as TRL calls them, one function each.

    Args:
        scorer: holds the rewards.
        rows: every tokenized row; TRL passes the places of its prompts as the column ``row``.
    """
    last: dict[str, Any] = {}  # all rewards are computed together; TRL asks for them one by one

    def scores(index: int, completions: Sequence[str], places: Sequence[int]) -> list[float]:
        key = (tuple(places), tuple(completions))
        if last.get("key") != key:
            last.update(key=key, found=scorer.scores([rows[place] for place in places], completions))
        return list(last["found"][index])

    def function(index: int, name: str) -> Callable[..., list[float]]:
        def reward(completions: Sequence[str], row: Sequence[int], **_: Any) -> list[float]:
            return scores(index, completions, row)

        reward.__name__ = name
        return reward

    names = scorer.rewards.names if scorer.rewards is not None else ()
    return [function(index, name) for index, name in enumerate(names)]
