"""Try rewards on a few answers before anything is trained: right ones, wrong ones, made-up ones, an empty one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance
from typing import Any

from ft_magic.data.row import shortened
from ft_magic.errors import FTError, RunError, SpecError
from ft_magic.rewards.function import ScoreError
from ft_magic.rewards.texts import prompt_text

# Scores a batch: (prompts, answers, columns) -> one number an answer.
Scorer = Callable[[Sequence[Any], Sequence[str], Mapping[str, Sequence[Any]]], list[float]]

# What an untrained model may say; the last one is empty, as answers can be.
MADE_UP = ("I do not know.", "The answer is 7.", "")
# 8 answers to each of 8 prompts, a usual GRPO step, then take 3 s: as long as a fast step itself.
SLOW_S = 0.05
EXAMPLES: tuple[Mapping[str, str], ...] = (
    {"prompt": "What is 17 + 25?", "answer": "42"},
    {"prompt": "A box holds 12 eggs. How many eggs are in 3 boxes?", "answer": "3 * 12 = 36\n#### 36"},
    {"prompt": "What is the capital of France?", "answer": "Paris"},
    {"prompt": "Name a colour.", "answer": "Blue"},
)


@dataclass(frozen=True)
class Attempts:
    """Answers to score, each with its prompt and its row.

    Attributes:
        prompts: as in the rows.
        completions: the answers.
        columns: column -> one value an answer.
        kinds: where each answer comes from, in words.
        rows: index of the row of each answer.
    """

    prompts: list[Any]
    completions: list[str]
    columns: dict[str, list[Any]]
    kinds: list[str]
    rows: list[int]


def attempts(samples: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Attempts:
    """Return answers to try on each sample row: its own, the next row's, and one made up."""
    told = [_answer(row) for row in samples]
    found: list[tuple[int, str, str]] = []
    for index in range(len(samples)):
        mine, others = told[index], told[(index + 1) % len(told)]
        if mine is not None:
            found.append((index, mine, "its answer"))
        if others is not None and others != mine:
            found.append((index, others, "another row's answer"))
        made_up = MADE_UP[index % len(MADE_UP)]
        found.append((index, made_up, "made up" if made_up else "empty"))
    names = [name for name in columns if name not in ("prompt", "completion")]
    return Attempts(
        prompts=[samples[index]["prompt"] for index, _, _ in found],
        completions=[text for _, text, _ in found],
        columns={name: [samples[index].get(name) for index, _, _ in found] for name in names},
        kinds=[kind for _, _, kind in found],
        rows=[index for index, _, _ in found],
    )


def _answer(row: Mapping[str, Any]) -> str | None:
    value = row.get("answer")
    usable = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value) if usable else None


@dataclass(frozen=True)
class Trial:
    """What a reward did on the attempts.

    Attributes:
        name: of the reward.
        scores: one an attempt.
        seconds: time of the whole call.
        attempts: what was scored.
    """

    name: str
    scores: tuple[float, ...]
    seconds: float
    attempts: Attempts

    @property
    def seconds_an_answer(self) -> float:
        """Time of one answer."""
        return self.seconds / max(len(self.scores), 1)

    @property
    def mean(self) -> float:
        """Mean score."""
        return fmean(self.scores)

    @property
    def variance(self) -> float:
        """Variance of the scores (population)."""
        return pvariance(self.scores)

    def cautions(self) -> tuple[tuple[str, str], ...]:
        """Return what a reader should act on, each with its fix."""
        found = []
        if len(self.scores) > 1 and min(self.scores) == max(self.scores):
            what = f"all {len(self.scores)} tried answers, right, wrong and empty ones,"
            problem = f"reward '{self.name}' scores {what} {self.scores[0]:g}: training would learn nothing from it."
            found.append((problem, "Try it on rows like yours (data=$ds), or let it tell answers apart."))
        if self.seconds_an_answer > SLOW_S:
            each, step = f"{self.seconds_an_answer:.2g} s an answer", f"{64 * self.seconds_an_answer:.0f} s"
            problem = f"reward '{self.name}' takes {each}: {step} for a step of 64 answers."
            found.append(
                (problem, "Score lists (completions) together, or do the slow part outside the function.")
            )
        return tuple(found)


def run(name: str, scorer: Scorer, tried: Attempts) -> Trial:
    """Score the attempts.

    Raises:
        SpecError: the reward failed; says on which row and answer.
    """
    began = time.perf_counter()
    scores = scored(name, scorer, tried.prompts, tried.completions, tried.columns, rows=tried.rows)
    return Trial(name, tuple(scores), time.perf_counter() - began, tried)


def scored(
    name: str,
    scorer: Scorer,
    prompts: Sequence[Any],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    *,
    rows: Sequence[int] | None = None,
) -> list[float]:
    """Score answers; what goes wrong becomes an error that names the reward, the row and the answer.

    Args:
        name: of the reward.
        scorer: does it.
        prompts: ``(answers,)``, texts or messages.
        completions: ``(answers,)``.
        columns: each ``(answers,)``.
        rows: index of the sample row of each answer when trying out; None in training.

    Raises:
        SpecError: when trying out.
        RunError: in training.
    """
    try:
        return scorer(prompts, completions, columns)
    except ScoreError as error:
        kind: type[FTError] = RunError if rows is None else SpecError
        where = ""
        if error.row is not None:
            place = (
                f"answer {error.row} of {len(completions)}"
                if rows is None
                else f"sample row {rows[error.row]}"
            )
            prompt = shortened(prompt_text(prompts[error.row]))
            where = f" on {place} (prompt: {prompt!r}, answer: {shortened(completions[error.row])!r})"
        instead = f"Mend it and try it out: %%reward_fn {name} data=$your_data."
        raise kind(f"reward '{name}' {error.problem}{where}.", instead) from error
