"""What a run says in words and numbers, without its curves: enough for a terminal, a log and a heading."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ft_magic.events import Event
from ft_magic.ui.advice import findings, verdict
from ft_magic.ui.history import History
from ft_magic.ui.show import gib, number, seconds
from ft_magic.ui.summary import Summary, summarise

_MOST_WARNINGS = 2


@dataclass(frozen=True)
class Headline:
    """A run in words and numbers.

    Attributes:
        title: name, method, update and model.
        summary: the numbers and the verdict.
        notes: what to read below: a problem, advice on unhealthy curves, the last warnings.
    """

    title: str
    summary: Summary
    notes: tuple[str, ...]


def headline(history: History, *, title: str | None = None, problem: str = "") -> Headline:
    """Return what a run says.

    Args:
        history: what happened.
        title: heading; by default name, method, update and model.
        problem: what to say if the run ended without a word of its own.
    """
    found = findings(history)
    summary = summarise(history, verdict(history, found))
    if problem and summary.status == "running":
        summary = replace(summary, status="failed", verdict="ended without a word", eta_s=None)
    first = [problem] if problem else []
    notes = (*first, *(finding.text for finding in found), *_warnings(history))
    return Headline(_title(history) if title is None else title, summary, notes)


def numbers_line(s: Summary) -> str:
    """Return the numbers of a run as one line of plain text."""
    parts = [s.doing or s.status]
    if s.step or s.total_steps:
        parts.append(f"step {s.step}" + (f" of {s.total_steps}" if s.total_steps else ""))
    if s.goal and s.goal_last is not None:
        parts.append(f"{s.goal} {number(s.goal_first, 3)} \u2192 {number(s.goal_last, 3)}")
    elif s.loss_last is not None:
        parts.append(f"loss {number(s.loss_first)} \u2192 {number(s.loss_last)}")
    if s.eval_last is not None:
        first = "" if s.eval_first == s.eval_last else f"{number(s.eval_first)} \u2192 "
        parts.append(f"held-out {first}{number(s.eval_last)}")
    if s.tokens_per_s is not None:
        parts.append(f"{number(s.tokens_per_s, 3)} tokens/s")
    if s.memory_bytes is not None:
        parts.append(memory_words(s))
    if s.elapsed_s:
        parts.append(f"{seconds(s.elapsed_s)} so far" if s.status == "running" else seconds(s.elapsed_s))
    if s.eta_s is not None:
        parts.append(f"{seconds(s.eta_s)} left")
    return " \u00b7 ".join(parts)


def memory_words(s: Summary) -> str:
    """Return the memory measured beside what was planned: ``1.20 GiB (1.10 GiB planned)``."""
    planned = f" ({gib(s.planned_bytes)} planned)" if s.planned_bytes else ""
    return f"{gib(s.memory_bytes)}{planned if s.memory_bytes is not None else ''}"


def model_name(planned: Event | None) -> str:
    """Return the last part of the model's name or folder, empty where it is not known."""
    told = str(planned.get("model") or "") if planned is not None else ""
    return told.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]


def _title(history: History) -> str:
    planned = history.first.get("planned")
    if planned is None:
        return "run"
    words = [planned.get("name"), planned.get("method"), planned.get("update")]
    return " \u00b7 ".join(str(word) for word in [*words, model_name(planned)] if word)


def _warnings(history: History) -> list[str]:
    """Return the newest warnings, each with what to do about it."""
    return [
        str(event.get("message") or event.kind) + (f" \u2192 {event.get('fix')}" if event.get("fix") else "")
        for event in history.warnings[-_MOST_WARNINGS:]
    ]
