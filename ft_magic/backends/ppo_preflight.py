"""One whole step of PPO on the longest prompts before training, which leaves no trace. Worker only.

Its optimizer steps are real, with a learning rate of nought: what they add to a weight is nought times a finite number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ft_magic.backends import Emit, preflight, shortage
from ft_magic.backends.ppo_learning import Learner
from ft_magic.backends.preflight import Peaks
from ft_magic.backends.random_state import RandomState
from ft_magic.planning.smaller import EVAL


class _Still:
    """A schedule that stays at nought."""

    def get_last_lr(self) -> list[float]:
        """Return the rate."""
        return [0.0]

    def step(self) -> None:
        """Stay where it is."""


def rehearse(
    loop: Any, emit: Emit, step: Callable[[Any, int], object], evaluated: Callable[[Any], object]
) -> None:
    """Try a step and an evaluation of a loop on its longest prompts; tell the peak as an event.

    Args:
        loop: of ``ppo.py``; what changes in it is put back.
        emit: where events go.
        step: takes one step of a loop, after so many.
        evaluated: evaluates a loop on its held-out prompts.

    Raises:
        ShortageError: it does not fit; its ``part`` says what.
    """
    plan = loop.job.plan
    tried = replace(
        loop,
        rows=_longest(loop.rows, plan.settings.batch_size),
        heldout=_longest(loop.heldout, len(loop.heldout)),
        going=copy.copy(loop.going),
        scheduler=_Still(),
    )

    def measure(peaks: Peaks) -> None:
        with _no_trace(loop.learner):
            preflight.forget_peak()
            began_s = preflight.now_s()
            step(tried, 0)
            peaks.step_s = preflight.now_s() - began_s
            peaks.step_bytes = preflight.peak_bytes()
            if tried.heldout:
                peaks.part = EVAL
                preflight.forget_peak()
                began_s = preflight.now_s()
                evaluated(tried)
                peaks.eval_s = preflight.now_s() - began_s
                peaks.eval_bytes = preflight.peak_bytes()

    preflight.told(plan, emit, measure)


@contextmanager
def _no_trace(learner: Learner) -> Iterator[None]:
    """Let no step change a weight, and put back everything else that steps change."""
    groups, chance = learner.optimizer.param_groups, RandomState.now()
    rates, scaler = [group["lr"] for group in groups], learner.scaler.state_dict()
    try:
        for group in groups:
            group["lr"] = 0.0
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        learner.optimizer.zero_grad(set_to_none=True)
        learner.optimizer.state.clear()
        learner.scaler.load_state_dict(scaler)
        shortage.free()
        chance.put_back()


def _longest(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Return ``count`` rows, the longest prompts first, again and again where there are too few."""
    order = sorted(rows, key=lambda row: len(row["prompt_ids"]), reverse=True)
    return [order[place % len(order)] for place in range(count)]
