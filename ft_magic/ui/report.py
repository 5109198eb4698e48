"""One page that tells a run: what was asked, planned and done, how good it is, and how to do it again.

The page is a single file without scripts and without anything from the network; it reads the run folder only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ft_magic import atomic, events
from ft_magic.events import Event
from ft_magic.ui import svg
from ft_magic.ui.headline import model_name
from ft_magic.ui.history import History
from ft_magic.ui.page import any_html, label, pairs, table, words
from ft_magic.ui.panels import Chart, build
from ft_magic.ui.show import DASH, Html, count, escape, gib, number, seconds
from ft_magic.ui.summary import Summary

_STYLE = Path(__file__).parent / "assets" / "report.css"
_TONES = {"finished": "good", "failed": "bad", "stopped": "warn"}
# A report is read by a person: this many samples show the pattern, the rest stays in events.jsonl.
_MOST_SAMPLES = 12

Section = Callable[["_Folder"], str]


class _Folder:
    """The parts of a run folder a report reads, and what could not be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = events.read(path / "events.jsonl")
        self.history = History(self.events)
        self.chart: Chart = build(self.history, title=self.title)
        self.unread: list[str] = []

    @property
    def title(self) -> str:
        """Name of the run as planned, else its folder's name."""
        planned = self.history.first.get("planned")
        return str(planned.get("name") or self.path.name) if planned else self.path.name

    def text(self, name: str) -> str:
        """Return a text file's content, empty where there is none."""
        path = self.path / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, empty where there is none; a damaged file is told in the report."""
        text = self.text(name)
        if not text:
            return {}
        try:
            value = json.loads(text)
        except ValueError as error:
            self.unread.append(f"{name} cannot be read ({error}); the rest of the report does not need it.")
            return {}
        return value if isinstance(value, dict) else {"": value}

    def last(self, kind: str) -> Event | None:
        """Return the last event of a kind."""
        return self.history.last.get(kind)


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no run folder.")
    path = folder / "report.html"
    atomic.write_text(path, page(folder))
    return path


def page(run_folder: Path) -> str:
    """Return the report of a run as one HTML page."""
    folder = _Folder(run_folder)
    sections: tuple[tuple[str, Section], ...] = (
        ("Training", _training),
        ("Evaluation: before and after", _evaluation),
        ("Answers during training", _answers),
        ("Certificate", _certificate),
        ("Files", _files),
        ("What was asked", _asked),
        ("What was planned, and why", _planned),
        ("Versions", _versions),
        ("How to do it again", _again),
    )
    bodies = [(title, make(folder)) for title, make in sections]
    body = "".join(f"<section><h2>{escape(title)}</h2>{part}</section>" for title, part in bodies if part)
    unread = "".join(f'<p class="warn">{escape(line)}</p>' for line in folder.unread)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(folder.title)} \u00b7 ft_magic report</title>"
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f"{_head(folder)}{unread}{body}"
        f"<footer>Written by ft_magic from {escape(folder.path.name)}</footer></main></body></html>\n"
    )


def _head(folder: _Folder) -> str:
    planned, s = folder.history.first.get("planned"), folder.chart.summary
    told = [planned.get(key) for key in ("method", "update", "backend")] if planned else []
    line = " \u00b7 ".join(str(word) for word in [*told, model_name(planned)] if word)
    tone = _TONES.get(s.status, "soft")
    return (
        f"<header><h1>{escape(folder.title)}</h1>"
        f'<p class="soft">{escape(line)}</p>'
        f'<p><span class="badge {tone}">{escape(s.status)}</span> &nbsp;{escape(s.verdict)}</p></header>'
        f'<div class="tiles">{_tiles(s)}</div>'
    )


def _tiles(s: Summary) -> str:
    tiles = [
        ("steps", f"{s.step:,} of {s.total_steps:,}" if s.total_steps else f"{s.step:,}"),
        *([(s.goal, _from_to(s.goal_first, s.goal_last))] if s.goal else []),
        ("training loss", _from_to(s.loss_first, s.loss_last)),
        ("held-out loss", _from_to(s.eval_first, s.eval_last)),
        ("time", seconds(s.elapsed_s) if s.elapsed_s else DASH),
        ("tokens a second", number(s.tokens_per_s, 3)),
        ("peak memory", gib(s.memory_bytes)),
    ]
    kept = [(name, value) for name, value in tiles if value != DASH]
    return "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(n)}</span></div>' for n, v in kept)


def _from_to(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return DASH
    return number(last, 3) if first == last else f"{number(first, 3)} \u2192 {number(last, 3)}"


def _training(folder: _Folder) -> str:
    if not folder.events:
        return "<p>No events yet: the run has not started.</p>"
    notes = "".join(f'<p class="warn">{escape(note)}</p>' for note in folder.chart.notes)
    failed = folder.last("failed")
    if failed is not None and folder.history.status == "failed":
        notes += (
            f'<p class="bad">{escape(failed.get("message"))}</p><p>{escape(failed.get("advice") or "")}</p>'
        )
    loaded = folder.last("loaded")
    size = ""
    if loaded is not None and loaded.get("total_parameters"):
        trained, total = loaded.get("trainable_parameters") or 0, loaded["total_parameters"]
        size = f"<p>{count(trained)} of {count(total)} parameters were trained ({trained / total:.2%}).</p>"
    return svg.image(folder.chart) + size + notes + _memory(folder)


def _memory(folder: _Folder) -> str:
    """Return the memory estimated, tried and taken, and what changed where it ran short."""
    summary, tried = folder.chart.summary, folder.last("preflight")
    sizes = [
        ("estimated by the plan", summary.planned_bytes),
        ("preflight: training step on the longest rows", tried.get("step_bytes") if tried else None),
        ("preflight: evaluation of the longest rows", tried.get("eval_bytes") if tried else None),
        ("highest of a step", max(folder.history.curve("memory_bytes")[1], default=None)),
        ("there is", summary.limit_bytes),
    ]
    rows = [(name, gib(size)) for name, size in sizes if size]
    short = [
        [e.get("step"), e.get("message"), e.get("fix")] for e in events.of_kind(folder.events, "oom_retry")
    ]
    retried = table(short, ("after step", "memory ran short", "what was done")) if short else ""
    return ("<h3>memory</h3>" + pairs(rows) if len(rows) > 1 else "") + retried


def _evaluation(folder: _Folder) -> str:
    event = folder.last("evaluated")
    if event is None:
        return ""
    figures = [figure for figure in event.get("figures") or [] if isinstance(figure, Mapping)]
    rows = [[figure.get("name"), figure.get("before"), figure.get("after")] for figure in figures]
    before, after = event.get("scores_before") or {}, event.get("scores_after") or {}
    rows += [[name, before.get(name), after[name]] for name in after]
    shown_figures = table(rows, ("on held-out rows", "before", "after")) if rows else ""
    samples = [sample for sample in event.get("samples") or [] if isinstance(sample, Mapping)]
    shown = "".join(_sample(sample) for sample in samples[:_MOST_SAMPLES])
    more = len(samples) - _MOST_SAMPLES
    rest = f'<p class="soft">{more} more in events.jsonl.</p>' if more > 0 else ""
    return f"<p>{escape(event.get('verdict') or '')}</p>{shown_figures}{shown}{rest}"


def _sample(sample: Mapping[str, Any]) -> str:
    kept = [(key, sample.get(key)) for key in ("before", "after", "expected") if sample.get(key) is not None]
    answers = "".join(f"<div><h3>{key}</h3>{escape(value)}</div>" for key, value in kept)
    prompt = escape(sample.get("prompt") or "")
    return f'<div class="sample"><div class="prompt">{prompt}</div><div class="answers">{answers}</div></div>'


def _answers(folder: _Folder) -> str:
    rows = [[e.get("step"), e.get("prompt"), e.get("text")] for e in events.of_kind(folder.events, "sample")]
    return table(rows[-_MOST_SAMPLES:], ("step", "prompt", "answer")) if rows else ""


def _certificate(folder: _Folder) -> str:
    certificate = folder.json("certificate.json")
    if not certificate:
        return ""
    verdict = certificate.pop("verdict", None)
    lead = f"<p><b>{escape(verdict)}</b></p>" if isinstance(verdict, str) else ""
    return lead + any_html(certificate)


def _files(folder: _Folder) -> str:
    rows: list[list[object]] = []
    for event in events.of_kind(folder.events, "finished", "merged", "quantized", "certified"):
        path = event.get("path")
        if path:
            kind = event.get("type") or {"finished": "trained weights"}.get(event.kind, event.kind)
            rows.append([kind, Html(f"<code>{escape(path)}</code>"), gib(event.get("bytes"))])
    unique = {str(row[1]): row for row in rows}
    return table(unique.values(), ("what", "where", "size")) if rows else ""


def _asked(folder: _Folder) -> str:
    text = folder.text("spec.yaml")
    return f"<pre>{escape(text.strip())}</pre>" if text else ""


def _planned(folder: _Folder) -> str:
    plan = folder.json("plan.json")
    if not plan:
        return ""
    settings, reasons = plan.pop("settings", {}), plan.pop("reasons", {})
    rows = [[label(key), words(value, key), reasons.get(key, "")] for key, value in settings.items()]
    parts = [table(rows, ("setting", "value", "why"))] if rows else []
    memory = plan.pop("memory", None)
    if isinstance(memory, Mapping) and memory:
        sizes = [(label(part), gib(size)) for part, size in memory.items() if size]
        parts.append("<h3>memory by part</h3>" + pairs(sizes))
    plan.pop("spec", None)
    return "".join(
        [*parts, any_html({key: value for key, value in plan.items() if value not in ({}, [], "")})]
    )


def _versions(folder: _Folder) -> str:
    versions = folder.json("versions.json") or folder.json("run.json").get("versions") or {}
    return any_html(versions) if versions else ""


def _again(folder: _Folder) -> str:
    if not folder.text("spec.yaml"):
        return ""
    lines = [
        "# the same run again, from its own record",
        f"ft-magic finetune {folder.path.parent.name}/{folder.path.name}/spec.yaml",
        "# the same run as a plain TRL script",
        f"ft-magic script {folder.title}",
    ]
    text = "\n".join(lines)
    return f"<pre>{escape(text)}</pre><p class='soft'>The rows it was trained on are in data/train.jsonl.</p>"
