"""What scores answers in an evaluation: a function of the user's, or a reward run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from ft_magic import jobs
from ft_magic.errors import SpecError
from ft_magic.progress import Progress
from ft_magic.ui.live import ProgressLine

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from ft_magic.run import Run

Function = Callable[[str, str, str], Any]
Score: TypeAlias = "Function | Run"


def scores(run: Run, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Return a reward run's score of each answer; higher is better, the zero point is the run's own.

    Raises:
        SpecError: the run trained no reward model, or prompts and answers differ in number.
        RunError: the run has no result yet.
    """
    run.require_result()
    if not run.plan.method.score_head:
        raise SpecError(
            f"run {run.name} trained with method {run.plan.spec.method}, which gives no scores.",
            "Train a reward model on preference pairs with %%reward.",
        )
    if len(prompts) != len(answers):
        raise SpecError(
            f"{len(prompts)} prompts and {len(answers)} answers do not pair up.", "Give one answer a prompt."
        )
    arguments = {"run": str(run.path), "prompts": list(prompts), "answers": list(answers)}
    with ProgressLine("Scoring") as progress:
        return list(jobs.call("score", arguments, progress))


def score_job(*, run: str, prompts: Sequence[str], answers: Sequence[str], progress: Progress) -> list[float]:
    """Score answers with a reward run; the job behind ``scores``."""
    import torch

    from ft_magic.rewards import model

    progress("loading the reward model", 0, 0)
    loaded = model.load(Path(run), "cuda" if torch.cuda.is_available() else "cpu")
    return loaded.scores(
        [loaded.ids(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    )


def check(score: Score | None, run: Run) -> None:
    """Refuse a score that cannot work, before the minutes of work whose result it would throw away.

    Raises:
        SpecError: a function that fails on the first held-out row, or a run that gives no scores.
    """
    if score is None:
        return
    if not _is_run(score):
        _try_out(score, run)
    elif not score.plan.method.score_head:
        scores(score, [], [])


def _is_run(score: Score) -> TypeIs[Run]:
    return hasattr(score, "require_result")


def means(score: Score | None, answers: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """Return the mean of each score over all answers."""
    if score is None or not answers:
        return {}
    if _is_run(score):
        asked, given = [prompt for prompt, _, _ in answers], [answer for _, answer, _ in answers]
        return {f"score by {score.name}": fmean(scores(score, asked, given))}
    table: dict[str, list[float]] = {}
    for triple in answers:
        for name, value in _named(score(*triple)).items():
            table.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in table.items()}


def _try_out(score: Function, run: Run) -> None:
    """Call a score function once, before the minutes of work whose result it would throw away.

    Raises:
        SpecError: it fails on the first held-out row, given the expected answer.
    """
    from ft_magic.backends.rows import read
    from ft_magic.evaluate.heldout import expected_text, prompt_text

    row = next(read(run.folder.heldout_rows))
    expected = expected_text(row)
    try:
        value = score(prompt_text(row), expected, expected)
    except Exception as error:  # the user's own code may raise anything
        raise SpecError(
            f"the score function fails on the first held-out row: {type(error).__name__}: {error}.",
            "It is called as score(prompt, answer, expected) and returns a number or a dict of numbers.",
        ) from error
    _named(value)


def _named(value: Any) -> dict[str, float]:
    """Read what a score function returned: a number, a flag, a dict of those, or an object with ``as_dict``."""
    if isinstance(value, bool | int | float):
        return {"score": float(value)}
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, Mapping):
        return {str(name): float(part) for name, part in value.items()}
    raise SpecError(
        f"score returned {type(value).__name__}, which is no number.",
        "Return a number, a flag, or a dict of names to numbers.",
    )
