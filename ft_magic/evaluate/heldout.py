"""Measure the held-out rows before and after training. Runs in the warm process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_magic.backends import rows
from ft_magic.data.row import answer_text, question_text
from ft_magic.evaluate import figures, teacher
from ft_magic.evaluate.figures import Figure
from ft_magic.evaluate.generate import Loaded, answer, load
from ft_magic.evaluate.losses import labelled, losses
from ft_magic.planning.plans import Plan
from ft_magic.progress import Progress
from ft_magic.run_folder import RunFolder
from ft_magic.template import Tokenizer, prompt_ids

Fed = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        folder: run folder.
        plan: of the run.
        model: how to load the trained model.
        light: its tokenizer.
        fed: held-out rows as tokens, as the method is fed.
        progress: told what is being done.
        max_new_tokens: longest answer, in tokens.
    """

    folder: Path
    plan: Plan
    model: Mapping[str, Any]
    light: Tokenizer
    fed: Fed
    progress: Progress
    max_new_tokens: int

    def both(self, measure: Callable[[Loaded, str], Any]) -> tuple[Any, Any]:
        """Return what ``measure(loaded, "before" or "after")`` gives for both models; adapters share their base."""
        loaded = load(**self.model)
        if self.model["adapter"]:
            with loaded.base():
                before = measure(loaded, "before")
            return before, measure(loaded, "after")
        after = measure(loaded, "after")
        return measure(load(**(dict(self.model) | {"base": self.plan.model_folder})), "before"), after

    def likelihoods(self, found: Fed) -> tuple[Any, Any]:
        """Return the likelihood of each row, before and after."""
        return self.both(
            lambda loaded, when: losses(loaded.model, found, self.progress, f"held-out loss, {when} training")
        )

    def answers(self, prompts: Sequence[Sequence[int]]) -> tuple[list[str], list[str]]:
        """Return the likeliest answer to each prompt, before and after."""
        return self.both(
            lambda loaded, when: answer(
                loaded,
                prompts,
                max_new_tokens=self.max_new_tokens,
                progress=self.progress,
                what=f"answering, {when} training",
            )
        )


def evaluate_job(
    *, run: str, model: Mapping[str, Any], samples: int, max_new_tokens: int, progress: Progress
) -> dict[str, Any]:
    """Measure the model before and after training on every held-out row.

    Args:
        run: run folder.
        model: how to load the trained model.
        samples: held-out prompts to answer.
        max_new_tokens: longest answer, in tokens.
        progress: told what is being done.

    Returns:
        ``examples``, ``figures`` (see ``Figure``), and ``samples`` with prompt, expected, before, after.
    """
    folder = RunFolder(Path(run))
    plan = Plan.read(folder.plan)
    progress("loading the model", 0, 0)
    light = Tokenizer.load(plan.model_folder)
    fed = rows.tokenized(folder.heldout_rows, light, plan).rows
    task = Task(folder.path, plan, model, light, fed, progress, max_new_tokens)
    found = _MEASURES[plan.method.feed](task) if fed else []
    answers_prompts = not plan.method.score_head and plan.method.signal != "text"
    raw = list(rows.read(folder.heldout_rows))[:samples] if answers_prompts else []
    return {
        "examples": len(fed),
        "figures": [figure.to_dict() for figure in found],
        "samples": _samples(task, raw) if raw else [],
    }


def _samples(task: Task, raw: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    prompts = [prompt_ids(task.light, row) for row in raw]
    before, after = task.answers(prompts)
    return [
        {
            "prompt": prompt_text(row) or task.light.decode(list(ids)),
            "expected": expected_text(row),
            "before": a,
            "after": b,
        }
        for row, ids, a, b in zip(raw, prompts, before, after, strict=True)
    ]


def _labels(task: Task) -> list[Figure]:
    return figures.of_losses(*task.likelihoods(task.fed))


def _demos(task: Task) -> list[Figure]:
    shown = [labelled(row["prompt_ids"], row["completion_ids"]) for row in task.fed]
    return figures.of_losses(*task.likelihoods(shown))


def _pairs(task: Task) -> list[Figure]:
    sides = {
        side: [labelled(row["prompt_ids"], row[f"{side}_ids"]) for row in task.fed]
        for side in ("chosen", "rejected")
    }
    measured = {side: task.likelihoods(found) for side, found in sides.items()}
    before, after = ({side: both[at] for side, both in measured.items()} for at in (0, 1))
    return figures.of_pairs(before, after)


def _judged(task: Task) -> list[Figure]:
    shown = [labelled(row["prompt_ids"], row["completion_ids"]) for row in task.fed]
    return figures.of_judged(*task.likelihoods(shown), [row["label"] for row in task.fed])


def _whole_pairs(task: Task) -> list[Figure]:
    """Score both answers with the trained head; before training there was none."""
    from ft_magic.rewards import model as reward_model

    scorer = reward_model.load(task.folder, task.plan.settings.device)
    task.progress("scoring both answers", 0, 0)
    sides = [scorer.scores([row[f"{side}_ids"] for row in task.fed]) for side in ("chosen", "rejected")]
    return figures.of_scores(*sides)


def _prompts(task: Task) -> list[Figure]:
    """Score the likeliest answers with the run's rewards or judge, or measure the distance to the teacher."""
    from ft_magic.backends.scoring import load_scorer

    if task.plan.teacher_folder:
        return teacher.distance(task)
    scorer = load_scorer(task.folder, task.plan)
    if scorer is None:
        return []
    before, after = task.answers([row["prompt_ids"] for row in task.fed])
    if scorer.judge is not None:
        verdicts, _ = scorer.prefer(task.fed, before, after)
        wins = sum((v == 1) + 0.5 * (v < 0) for v in verdicts) / len(verdicts)
        return [Figure("judge prefers the answer", 1 - wins, wins, higher=True, share=True)]
    sides = [scorer.totals(task.fed, side)[1] for side in (before, after)]
    names = sorted(sides[1], key=lambda name: name != "reward")
    return [Figure(name.removesuffix("/mean"), sides[0][name], sides[1][name], higher=True) for name in names]


# ``Method.feed`` -> what is measured of it
_MEASURES: Mapping[str, Callable[[Task], list[Figure]]] = MappingProxyType(
    {
        "labels": _labels,
        "demos": _demos,
        "pairs": _pairs,
        "judged": _judged,
        "whole_pairs": _whole_pairs,
        "prompts": _prompts,
    }
)


def prompt_text(row: Mapping[str, Any]) -> str:
    """Return what the person asked in a normalised row: the last user turn before the answer."""
    return "" if "text" in row else question_text(row)


def expected_text(row: Mapping[str, Any]) -> str:
    """Return the answer a normalised row shows: the last assistant turn, completion, chosen answer or ``answer``."""
    if "messages" in row:
        return str(row["messages"][-1]["content"])
    return "" if "text" in row else answer_text(row)
