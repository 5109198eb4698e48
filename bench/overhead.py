"""What the live chart costs in a long run: a real run's events, repeated, shown at their own pace."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ft_magic import events
from ft_magic.events import Event
from ft_magic.ui.live import Live
from ft_magic.ui.screens import Frame

STEPS = 1000
FAST_STEP_S = 0.2  # a small model on a GPU
_POLL_S = 0.2  # how often ft_magic's follower looks


def long_run(runs: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return by label the share of time spent in the chart; None where ft_magic was not measured."""
    ours = next((run for run in runs if "events" in run), None)
    if ours is None:
        return None
    seen = events.read(Path(ours["events"]))
    step_s = median(ours["step_s"])
    return {
        f"{STEPS} steps of {seconds:.1f} s": share(list(repeated(seen, STEPS, seconds)))
        for seconds in (step_s, FAST_STEP_S)
    }


def repeated(seen: list[Event], steps: int, step_s: float) -> Iterator[Event]:
    """Yield a run of that many steps made of a run's own events, with a loss that falls and trembles."""
    head = [event for event in seen if event.kind in ("planned", "started", "loaded")]
    told = [event for event in seen if event.kind == "step"]
    began_t = seen[0].t
    yield from (replace(event, t=began_t) for event in head)
    for step in range(1, steps + 1):
        base = told[step % len(told)]
        loss = 1 + math.exp(-step / 100) + 0.1 * math.sin(step)
        data = base.data | {
            "step": step,
            "total_steps": steps,
            "loss": loss,
            "eta_s": (steps - step) * step_s,
        }
        yield Event("step", began_t + step * step_s, data)
        if step % (steps // 5) == 0:
            yield Event("eval", began_t + step * step_s, {"step": step, "loss": loss + 0.1, "metrics": {}})


def share(seen: list[Event]) -> float:
    """Return seconds spent in ``Live`` by seconds of the run, at the follower's pace."""
    polls = Polls()
    live = Live("bench", clock=polls.clock, display=_as_a_kernel)
    waiting = iter([*seen, None])
    upcoming = next(waiting)
    began_t = seen[0].t
    while upcoming is not None:
        polls.wait(_POLL_S)
        due = []
        while upcoming is not None and upcoming.t - began_t <= polls.now_s:
            due.append(upcoming)
            upcoming = next(waiting)
        polls.measure(lambda due=due: live.update(due))
    polls.measure(live.close)
    return polls.spent_s / (seen[-1].t - began_t)


class Polls:
    """A clock that jumps from poll to poll and runs for real in between."""

    def __init__(self) -> None:
        self.now_s = self.spent_s = 0.0
        self._begun: float | None = None

    def clock(self) -> float:
        """Return seconds since the start of the run."""
        return self.now_s + (0.0 if self._begun is None else time.perf_counter() - self._begun)

    def wait(self, seconds: float) -> None:
        """Let time pass in which nothing is computed."""
        self.now_s += seconds

    def measure(self, call: Any) -> None:
        """Call, and count the time it takes."""
        self._begun = time.perf_counter()
        call()
        took = time.perf_counter() - self._begun
        self._begun = None
        self.spent_s += took
        self.now_s += took


def _as_a_kernel(frame: Frame) -> None:
    json.dumps(dict(frame.bundle()))
