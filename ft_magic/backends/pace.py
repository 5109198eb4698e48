"""How a training goes by the clock: what its steps, evaluations and checkpoints take, and what follows. Worker only."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from ft_magic.backends.random_state import RandomState
from ft_magic.errors import RunError
from ft_magic.planning.cadence import SAVING_SHARE
from ft_magic.planning.plans import Plan, Settings

_STEP_WINDOW = 20  # steps behind the time-left estimate
# Of a time budget, for what ends a session besides the last step and its checkpoint: events, mirror, exit.
_MARGIN_S, _MARGIN_SHARE = 30.0, 0.05


@dataclass
class Pace:
    """What changes while a run goes on. Times with ``_t`` are seconds of the watch's clock, others durations.

    Attributes:
        started_t: when this session of the run began.
        step_began_t: when the present step began.
        step_ended_t: when the last step ended, 0 before the first.
        last_saved_t: when the last checkpoint was written.
        step_s: durations of the last steps.
        round_s: the longest time from the end of one step to the end of the next, evaluations and saves included.
        save_s: how long the last checkpoint took.
        saving_s: how long all checkpoints of this session took.
        evaluated_t: when the last evaluation ended, 0 before the first.
        eval_s: how long it took.
        random: random states after the last completed step and its evaluation.
        in_optimizer: whether weights are being changed.
    """

    started_t: float
    last_saved_t: float
    step_began_t: float = 0.0
    step_ended_t: float = 0.0
    round_s: float = 0.0
    save_s: float = 0.0
    saving_s: float = 0.0
    evaluated_t: float = 0.0
    eval_s: float = 0.0
    random: RandomState | None = None
    in_optimizer: bool = False
    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=_STEP_WINDOW))
    tokens: float = 0.0
    answered_t: float = 0.0
    best_eval: float = -math.inf
    best_step: int = 0
    evals_since_best: int = 0
    stop_reason: str = ""
    failure: RunError | None = None

    def saves(self, plan: Plan, step: int, *, due: bool) -> bool:
        """Return whether to save after a step.

        A checkpoint is due by the clock too, and one that nobody asked for is put off while checkpoints take more
        than their share of the time.

        Args:
            plan: of the run.
            step: just ended.
            due: whether one is due by the number of steps.
        """
        spec, every_s = plan.spec, 60 * plan.settings.save_every
        asked = bool(spec.save_steps or spec.save_every or "save_steps" in spec.trainer)
        if every_s:
            wait_s = every_s if asked else max(every_s, self.save_s / SAVING_SHARE)
            if self.step_ended_t - self.last_saved_t > wait_s:
                return True
        if not due or asked or step >= plan.settings.total_steps or not self.save_s:
            return due
        return self.saving_s + self.save_s <= SAVING_SHARE * (self.step_ended_t - self.started_t)

    def last_in(self, budget_s: float) -> bool:
        """Return whether a step as long as the longest so far, and its checkpoint, may end after the budget."""
        ahead_s = self.round_s + self.save_s + min(_MARGIN_S, _MARGIN_SHARE * budget_s)
        return self.step_ended_t - self.started_t + ahead_s > budget_s

    def left_s(self, settings: Settings, step: int) -> float:
        """Return the seconds left after a step: steps, evaluations and checkpoints as they took so far."""
        total = settings.total_steps
        if step >= total:
            return 0.0
        evaluations = math.ceil(total / settings.eval_steps) - step // settings.eval_steps
        saves = math.ceil(total / settings.save_steps) - step // settings.save_steps
        rests_s = evaluations * self.eval_s * bool(settings.eval_examples) + saves * self.save_s
        return (total - step) * median(self.step_s or [0.0]) + rests_s
