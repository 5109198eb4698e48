"""A run in numbers: what its history comes to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ft_magic.ui.history import History, number_of

# Seconds of one step and tokens a second jump with sequence length; the median of this many steps is steady.
_RECENT_STEPS = 20


@dataclass(frozen=True)
class Summary:
    """A run in numbers; None where nothing is known yet.

    Attributes:
        status: ``planned``, ``running``, ``stopped``, ``failed`` or ``finished``.
        doing: what is being done apart from training (``Loading the model``), or empty.
        step: last finished optimizer step.
        total_steps: steps planned, 0 when unknown.
        epoch: passes over the data, a fraction.
        loss_first: training loss of the first step.
        loss_last: training loss of the last step.
        loss_best: lowest training loss of a step.
        eval_first: first held-out loss.
        eval_last: last held-out loss.
        eval_best: lowest held-out loss.
        eval_best_step: step of the lowest held-out loss.
        tokens_per_s: median of the last steps.
        memory_bytes: highest memory of a step, or of the preflight before the first.
        planned_bytes: memory that the plan estimated.
        tried_bytes: memory that the preflight measured on the longest rows.
        limit_bytes: memory there is.
        elapsed_s: seconds between the first and last event of each session of the run, added up.
        eta_s: seconds left, None unless running.
        verdict: a few plain words.
        goal: what the method works for, where it is not a lower loss.
        goal_first: its value at the first step, on held-out prompts where those were measured.
        goal_last: its last value, of the same prompts.
    """

    status: str
    doing: str
    step: int
    total_steps: int
    epoch: float | None
    loss_first: float | None
    loss_last: float | None
    loss_best: float | None
    eval_first: float | None
    eval_last: float | None
    eval_best: float | None
    eval_best_step: int | None
    tokens_per_s: float | None
    memory_bytes: float | None
    elapsed_s: float
    eta_s: float | None
    verdict: str
    goal: str = ""
    goal_first: float | None = None
    goal_last: float | None = None
    planned_bytes: float | None = None
    tried_bytes: float | None = None
    limit_bytes: float | None = None


def summarise(history: History, verdict: str) -> Summary:
    """Return the numbers of a run with the verdict given."""
    (_, losses), (eval_steps, evals) = history.curve("loss"), history.eval_curve()
    last = history.steps.get(history.step)
    memory = history.curve("memory_bytes")[1]
    best = min(range(len(evals)), key=evals.__getitem__, default=None)
    goal, reached = history.goal, history.eval_curve(history.goal)[1]
    aimed = reached if len(reached) > 1 else history.curve(goal)[1]
    return Summary(
        status=history.status,
        doing=history.doing,
        step=history.step,
        total_steps=history.total_steps,
        epoch=number_of(last, "epoch") if last else None,
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        loss_best=min(losses, default=None),
        eval_first=evals[0] if evals else None,
        eval_last=evals[-1] if evals else None,
        eval_best=evals[best] if best is not None else None,
        eval_best_step=eval_steps[best] if best is not None else None,
        tokens_per_s=_median(history.curve("tokens_per_s")[1][-_RECENT_STEPS:]),
        memory_bytes=max(memory, default=history.told("measured_bytes", "preflight")),
        planned_bytes=history.told("planned_bytes", "preflight") or history.told("memory_bytes", "planned"),
        tried_bytes=history.told("measured_bytes", "preflight"),
        limit_bytes=history.told("limit_bytes", "preflight") or history.told("memory_limit_bytes", "planned"),
        elapsed_s=history.elapsed_s,
        eta_s=_eta_s(history),
        verdict=verdict,
        goal=goal.removeprefix("metrics/") if goal != "loss" else "",
        goal_first=aimed[0] if aimed else None,
        goal_last=aimed[-1] if aimed else None,
    )


def _eta_s(history: History) -> float | None:
    """Return seconds left: as the worker says, else from the median step, before the first as planned."""
    last = history.steps.get(history.step)
    if history.status != "running":
        return None
    if last is None:
        tried, now_t = history.last.get("preflight"), max(event.t for event in history.last.values())
        if tried is not None and not history.eta_measured and (ahead_s := number_of(tried, "eta_s")):
            return max(0.0, ahead_s - (now_t - tried.t))
        planned_s = history.told("eta_s", "planned")
        return max(0.0, planned_s - history.elapsed_s) if planned_s else None
    told = number_of(last, "eta_s")
    if told is not None:
        return told
    typical_s = _median(history.curve("step_s")[1][-_RECENT_STEPS:])
    left = history.total_steps - history.step
    return typical_s * left if typical_s is not None and left >= 0 else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
