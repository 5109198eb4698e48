"""Runs as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ft_magic import events
from ft_magic.ui.show import Shown, seconds, shown_table

if TYPE_CHECKING:
    from ft_magic.run import Run

_HEADER = ("run", "status", "method", "update", "step", "loss", "held-out loss", "trained for")


def shown_runs(items: Sequence[Run]) -> Shown:
    """Return one line a run, or how to start the first one."""
    if not items:
        return Shown(
            "<em>No runs yet: start one with %%finetune.</em>", "No runs yet: start one with %%finetune."
        )
    return shown_table([_line(run) for run in items], _HEADER)


def _line(run: Run) -> list[object]:
    found = run.events()
    planned = next(events.of_kind(found, "planned"), None)
    steps = list(events.of_kind(found, "step"))
    evals = list(events.of_kind(found, "eval"))
    step = f"{steps[-1]['step']}/{steps[-1]['total_steps']}" if steps else "0"
    return [
        run.name,
        run.status,
        planned["method"] if planned else "",
        planned["update"] if planned else "",
        step,
        _loss(steps[-1]["loss"]) if steps else None,
        _loss(evals[-1]["loss"]) if evals else None,
        seconds(sum(event.get("step_s") or 0.0 for event in steps)),
    ]


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def runs_text(items: Sequence[Run]) -> str:
    """Return the runs as text."""
    return shown_runs(items).text


def runs_html(items: Sequence[Run]) -> str:
    """Return the runs as HTML."""
    return shown_runs(items).html


def run_html(run: Run) -> str:
    """Return one run as HTML."""
    return shown_runs([run]).html
