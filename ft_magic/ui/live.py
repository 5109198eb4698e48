"""A run as it goes on: one output that is updated in place and holds the final state at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Self

from ft_magic.events import TERMINAL, Event
from ft_magic.ui import charts, svg
from ft_magic.ui.headline import headline, memory_words, numbers_line
from ft_magic.ui.history import History
from ft_magic.ui.panels import BLUE, Chart, build
from ft_magic.ui.progress_line import ProgressLine
from ft_magic.ui.screens import Bundle, Display, Frame, pick
from ft_magic.ui.show import (
    BAD,
    DASH,
    FONT,
    GOOD,
    WARN,
    Html,
    badge_html,
    bar_html,
    escape,
    note_html,
    number,
    seconds,
)

__all__ = ["Live", "ProgressLine", "bundle_of", "html_of"]

PLOTLY_MIME = "application/vnd.plotly.v1+json"
_AT_MOST_EVERY_S = 0.5
# Drawing may take one hundredth of the time: after a slow drawing the next one waits longer.
_COST_SHARE = 0.01
# Front ends store or replay every update, so a run of hours is drawn less often than one of minutes.
_AGE_SHARE, _AT_LEAST_EVERY_S = 1 / 120, 15.0
_COLOURS = {"finished": GOOD, "failed": BAD, "stopped": WARN}


class Live:
    """Shows a run from its events, at most twice a second.

    Args:
        run_name: heading, until the ``planned`` event brings method and model.
        clock: seconds, monotonic.
        display: where to show it; by default the notebook, terminal or log this code runs in.
    """

    def __init__(
        self, run_name: str, clock: Callable[[], float] = time.monotonic, display: Display | None = None
    ) -> None:
        self._run_name = run_name
        self._clock = clock
        self._display = display or pick()
        self._history = History()
        self._started = clock()
        self._next: float = self._started
        self._dirty = True
        self._broken = False
        self._closed = False

    @property
    def history(self) -> History:
        """Everything shown so far."""
        return self._history

    def update(self, events: Sequence[Event] = ()) -> None:
        """Take new events and draw, unless that was done a moment ago; an error here never stops a run."""
        self._history.add(events)
        self._dirty = self._dirty or bool(events)
        ended = any(event.kind in TERMINAL for event in events)
        if self._dirty and (ended or self._clock() >= self._next):
            self._draw()

    def close(self, problem: str = "") -> None:
        """Draw the final state.

        Args:
            problem: what to say if the run ended without a word of its own (a killed worker).
        """
        if not self._closed:
            self._closed = True
            self._draw(problem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, problem: str = "") -> None:
        begun = self._clock()
        try:
            self._display(self._frame(problem))
        except Exception as error:  # noqa: BLE001 - a front end may fail in any way; training must go on
            self._say_once(error)
        ended = self._clock()
        age_s = min((ended - self._started) * _AGE_SHARE, _AT_LEAST_EVERY_S)
        self._next = ended + max(_AT_MOST_EVERY_S, (ended - begun) / _COST_SHARE, age_s)
        self._dirty = False

    def _frame(self, problem: str) -> Frame:
        title = None if "planned" in self._history.first else self._run_name
        head = headline(self._history, title=title, problem=problem)
        s = head.summary
        return Frame(
            # The first note is what a terminal or log should not miss.
            text=" \u00b7 ".join([f"{head.title}: {numbers_line(s)}", *head.notes[:1]]),
            # Curves are built only where they are drawn: a log needs none.
            bundle=lambda: bundle_of(build(self._history, title=title, problem=problem), final=self._closed),
            # Not what is being done at the moment: that may change at every event, and a log would fill up.
            stage=f"{s.status}/{len(self._history.warnings)}",
            share=s.step / s.total_steps if s.total_steps else None,
            elapsed_s=s.elapsed_s,
            final=self._closed,
        )

    def _say_once(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            print(
                f"The chart cannot be shown ({type(error).__name__}: {error}); the run goes on.",
                file=sys.stderr,
            )


def bundle_of(chart: Chart, *, final: bool = True) -> Bundle:
    """Return a chart for a notebook: HTML with a picture and a table, one line of text, at the end plotly's JSON.

    Plotly's renderer in JupyterLab draws an output once and ignores every update of it (6.x, ``renderModel``
    returns where a graph exists): with its JSON in the first bundle a chart would stay at step 0.
    """
    config = {"displayModeBar": False, "responsive": True}
    interactive = {PLOTLY_MIME: {**charts.spec_of(chart), "config": config}} if final else {}
    text = f"{chart.title}: {numbers_line(chart.summary)}"
    return {**interactive, "text/html": html_of(chart), "text/plain": text}


def html_of(chart: Chart) -> str:
    """Return a chart as HTML that survives everywhere: a bar, a table of numbers, a picture, and notes."""
    s = chart.summary
    status = badge_html(s.doing or s.status, _COLOURS.get(s.status, BLUE))
    head = (
        f'<div style="font-size:14px;margin:2px 0 6px 0"><b>{escape(chart.title)}</b> &nbsp; {status} &nbsp; '
        f'<span style="opacity:0.8">{escape(s.verdict)}</span></div>'
    )
    notes = "".join(note_html(f"\u26a0 {text}") for text in chart.notes)
    body = f"{head}{_bar(chart)}{_numbers(chart)}{svg.image(chart, heading=False)}{notes}"
    return f'<div style="{FONT};max-width:920px">{body}</div>'


def _bar(chart: Chart) -> str:
    s = chart.summary
    return bar_html(s.step / s.total_steps, _COLOURS.get(s.status, BLUE)) if s.total_steps else ""


def _numbers(chart: Chart) -> str:
    """Return the numbers as a table of two rows: what, and how much."""
    s = chart.summary
    cells: list[tuple[str, str]] = [
        ("step", f"{s.step} of {s.total_steps}" if s.total_steps else str(s.step)),
        *([(s.goal, _from_to(s.goal_first, s.goal_last))] if s.goal and s.goal_last is not None else []),
        ("loss", _from_to(s.loss_first, s.loss_last)),
        ("held-out loss", _from_to(s.eval_first, s.eval_last)),
        ("speed", f"{number(s.tokens_per_s, 3)} tokens/s" if s.tokens_per_s is not None else DASH),
        ("time", seconds(s.elapsed_s) if s.elapsed_s else DASH),
        ("time left", seconds(s.eta_s)),
        ("memory", memory_words(s)),
    ]
    # What never comes is left out: a finished run has no time left, a reward run no held-out loss.
    left_out = {"time left"} if s.status != "running" else set()
    left_out |= {"held-out loss"} if s.goal and s.eval_last is None else set()
    cells = [cell for cell in cells if cell[0] not in left_out]
    look = "padding:0 18px 0 0;border:0;text-align:left;background:transparent"
    names = "".join(
        f'<td style="{look};font-size:11px;opacity:0.75">{escape(name)}</td>' for name, _ in cells
    )
    values = "".join(f'<td style="{look};font-size:14px">{escape(value)}</td>' for _, value in cells)
    rows = "".join(f'<tr style="background:transparent">{row}</tr>' for row in (names, values))
    return f'<table style="border-collapse:collapse;border:0;margin:0 0 4px 0;color:inherit">{rows}</table>'


def _from_to(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return DASH
    if first == last:  # measured once
        return Html(f"<b>{escape(number(last))}</b>")
    return Html(f"{escape(number(first))} \u2192 <b>{escape(number(last))}</b>")
