"""What happened so far: events folded into curves and marks.

A resumed run repeats steps that were lost: the later event wins, and lost steps that have not been repeated
are forgotten as soon as training goes on before them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ft_magic.axes import METHODS
from ft_magic.events import Event

_STATUS = {
    "planned": "planned", "started": "running", "stopped": "stopped", "failed": "failed",
    "finished": "finished",
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """Something worth a sign on the loss curve.

    Attributes:
        kind: ``checkpoint``, ``preflight``, ``warning``, ``out of memory``, ``stop``, ``resume`` or ``not a number``.
        step: optimizer step it belongs to.
        text: what to say about it.
    """

    kind: str
    step: int
    text: str


class History:
    """Folds events one by one, so that following a long run costs no more for each new event.

    Attributes:
        steps: step number -> its event, ascending.
        evals: step number -> held-out evaluation, ascending.
        marks: signs for the loss curve, oldest first.
        warnings: warning events, oldest first.
        first: kind -> first event of that kind (``planned`` carries name, method and model).
        last: kind -> last event of that kind.
        status: where the run stands.
        doing: what is being done apart from training, or empty.
        elapsed_s: seconds of all sessions.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.steps: dict[int, Event] = {}
        self.evals: dict[int, Event] = {}
        self.marks: list[Mark] = []
        self.warnings: list[Event] = []
        self.first: dict[str, Event] = {}
        self.last: dict[str, Event] = {}
        self.status = "planned"
        self.doing = ""
        self.elapsed_s = 0.0
        # Curves asked for once grow with each step, so that drawing does not read every event again.
        self._curves: dict[str, tuple[list[int], list[float]]] = {}
        self._session_t: float | None = None
        self._resumed = False
        self.add(events)

    @classmethod
    def of(cls, events: Iterable[Event] | History) -> History:
        """Return a history of the events; a history is returned as it is."""
        return events if isinstance(events, History) else cls(events)

    def add(self, events: Iterable[Event]) -> None:
        """Fold further events in."""
        for event in events:
            self.first.setdefault(event.kind, event)
            self.last[event.kind] = event
            self._count_time(event)
            self._fold(event)

    @property
    def step(self) -> int:
        """Last finished step, 0 before the first."""
        return next(reversed(self.steps), 0)

    @property
    def total_steps(self) -> int:
        """Steps planned, 0 when unknown."""
        events = [self.last[kind] for kind in ("step", "planned") if kind in self.last]
        return next((int(e["total_steps"]) for e in events if e.get("total_steps")), 0)

    def curve(self, key: str) -> tuple[Sequence[int], Sequence[float]]:
        """Return the steps and finite values of a field of the step events (``loss``, ``metrics/NAME``)."""
        if key not in self._curves:
            self._curves[key] = _unzip((step, number_of(e, key)) for step, e in self.steps.items())
        return self._curves[key]

    def eval_curve(self, key: str = "loss") -> tuple[Sequence[int], Sequence[float]]:
        """Return the steps and finite values of a field of the held-out evaluations, as ``curve`` names it."""
        return _unzip((step, number_of(event, key)) for step, event in self.evals.items())

    @property
    def goal(self) -> str:
        """Field that tells how good the model is: ``loss``, or the metric the run's method works for."""
        planned = self.first.get("planned")
        row = METHODS.get(str(planned.get("method"))) if planned else None
        return f"metrics/{row.goal}" if row is not None and row.goal else "loss"

    def told(self, key: str, kind: str) -> float | None:
        """Return a number of the last event of a kind; None where there is none."""
        event = self.last.get(kind)
        return number_of(event, key) if event is not None else None

    @property
    def eta_measured(self) -> bool:
        """Whether the plan's duration comes from an earlier run."""
        return bool(self.told("eta_steps", "planned"))

    def not_a_number(self) -> int | None:
        """Return the first step whose loss was written and is no number, or None."""
        return next((mark.step for mark in self.marks if mark.kind == "not a number"), None)

    def _fold(self, event: Event) -> None:
        self.status = _STATUS.get(event.kind, self.status)
        self.doing = str(event.get("what") or "") if event.kind == "progress" else ""
        if event.kind == "step":
            self._fold_step(event)
        elif event.kind == "eval":
            self.evals[_step_of(event, self.step)] = event
        elif event.kind == "started":
            self._resumed = bool(self.steps)
        elif event.kind == "checkpoint":
            self._mark("checkpoint", event, "checkpoint saved")
        elif event.kind == "preflight":
            self._mark("preflight", event, f"preflight: {event.get('message') or 'the longest rows fit'}")
        elif event.kind in ("warning", "oom_retry"):
            self.warnings.append(event)
            kind = "warning" if event.kind == "warning" else "out of memory"
            self._mark(kind, event, str(event.get("message") or "out of memory, retried"))
        elif event.kind in ("stopped", "failed"):
            self._mark("stop", event, str(event.get("reason") or event.get("message") or event.kind))

    def _fold_step(self, event: Event) -> None:
        step = _step_of(event, self.step + 1)
        if step <= self.step:
            self._forget_from(step)
        self.steps[step] = event
        for key, (steps, values) in self._curves.items():
            if (value := number_of(event, key)) is not None:
                steps.append(step)
                values.append(value)
        if self._resumed:
            self._resumed = False
            self.marks.append(Mark("resume", max(step - 1, 0), "resumed"))
        if "loss" in event.data and number_of(event, "loss") is None:
            self.marks.append(Mark("not a number", step, "the loss is not a number"))

    def _forget_from(self, step: int) -> None:
        self._curves.clear()
        self.steps = {s: e for s, e in self.steps.items() if s < step}
        self.evals = {s: e for s, e in self.evals.items() if s < step}
        self.marks = [mark for mark in self.marks if mark.step < step]

    def _mark(self, kind: str, event: Event, text: str) -> None:
        self.marks.append(Mark(kind, _step_of(event, self.step), text))

    def _count_time(self, event: Event) -> None:
        """Add up the time between events of one session; the gap before a new ``started`` does not count."""
        new_session = event.kind in ("planned", "started")
        if self._session_t is not None and not new_session and self.status == "running":
            self.elapsed_s += max(event.t - self._session_t, 0.0)
        self._session_t = event.t


def number_of(event: Event, key: str) -> float | None:
    """Return a finite number of an event, or None; ``metrics/NAME`` reads the nested metrics."""
    if key.startswith("metrics/"):
        metrics = event.get("metrics")
        value = metrics.get(key.removeprefix("metrics/")) if isinstance(metrics, dict) else None
    else:
        value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _step_of(event: Event, default: int) -> int:
    step = number_of(event, "step")
    return default if step is None else int(step)


def _unzip(pairs: Iterable[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    kept = [(step, value) for step, value in pairs if value is not None]
    return [step for step, _ in kept], [value for _, value in kept]
