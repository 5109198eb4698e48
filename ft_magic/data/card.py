"""Small HTML cards for data and reports. Everything shown is escaped; colours work on light and dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ft_magic.data.labels import label_counts
from ft_magic.data.row import answer_text, prompt_text, shortened

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.data.finding import Finding
    from ft_magic.data.quality import Report

# Mid-tones keep a contrast of at least 3:1 on white and on the dark themes of JupyterLab, Colab and VS Code.
LEVEL_COLOURS = {
    "ok": "#2e9e5b",
    "info": "#5b8def",
    "warning": "#c98500",
    "problem": "#e0525c",
    "broken": "#e0525c",
}
_BOX = "border:1px solid #8888;border-radius:6px;padding:8px 12px;margin:4px 0;max-width:60em"
_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0"
_REPORT_UP_TO_ROWS = 50_000  # a card must not take seconds; 50,000 short rows take about one
_SHOWN_FINDINGS = 3
_EXAMPLE_CHARACTERS = 240


def data_card(data: Data) -> str:
    """Return the card of some data: what it is, how columns were read, a first row, the worst findings."""
    mapping = ", ".join(f"{role} = {column}" for role, column in data.columns.items())
    pairs = [
        ("shape", f"{data.shape} ({mapping})" if mapping else data.shape or "given"),
        ("source", data.source),
    ]
    if data.dropped:
        pairs.append(("kept out", f"{data.dropped.count} source rows: {data.dropped}"))
    if data.rows:
        row = data.rows[0]
        label = "first text" if data.signal == "text" else "first prompt"
        pairs.append((label, shortened(prompt_text(row), _EXAMPLE_CHARACTERS)))
        if answer_text(row):
            pairs.append(("its answer", shortened(answer_text(row), _EXAMPLE_CHARACTERS)))
        pairs += _further(data)
    title = f"<b>{escape(data.name)}</b>: {len(data)} {escape(data.signal)} rows"
    return box(title + table(pairs) + _top_findings(data))


def report_card(report: Report) -> str:
    """Return the card of a report: one line a finding."""
    title = (
        f"<b>{escape(report.name)}</b>: {report.rows} {escape(report.signal)} rows, median "
        f"{report.length_median:g}, longest {report.length_max} {report.unit}"
    )
    lines = [finding_html(finding) for finding in report.findings] or ["<div>Nothing found.</div>"]
    return box(title + "".join(lines))


def finding_html(finding: Finding) -> str:
    """Return a finding as one escaped line with its level in colour."""
    colour = LEVEL_COLOURS.get(finding.level, "inherit")
    rows = f" <i>rows {', '.join(map(str, finding.examples))}</i>" if finding.examples else ""
    fix = f" <code>{escape(finding.fix)}</code>" if finding.fix else ""
    level = f'<b style="color:{colour}">{escape(finding.level)}</b>'
    return f"<div>{level} {escape(finding.message)}{rows}{fix}</div>"


def box(content: str) -> str:
    """Return a bordered box around HTML that is already escaped."""
    return f'<div style="{_BOX}">{content}</div>'


def table(pairs: list[tuple[str, str]]) -> str:
    """Return an escaped two-column table."""
    rows = "".join(
        f'<tr><th style="{_CELL};opacity:.7;font-weight:normal">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in pairs
    )
    return f'<table style="border-collapse:collapse;background:none">{rows}</table>'


def _further(data: Data) -> list[tuple[str, str]]:
    """Return what only some signals have: labels, columns for reward functions."""
    if data.signal == "label":
        good, bad = label_counts(data.rows)
        return [
            ("labels", f"{good} good, {bad} bad (the first is {'good' if data.rows[0]['label'] else 'bad'})")
        ]
    columns = [name for name in data.rows[0] if name != "prompt"]
    return [("for rewards", ", ".join(columns))] if data.signal == "prompt" and columns else []


def _top_findings(data: Data) -> str:
    if len(data) > _REPORT_UP_TO_ROWS:
        return "<div><i>data.report() looks at every row</i></div>"
    findings = data.report().findings
    more = len(findings) - _SHOWN_FINDINGS
    tail = f"<div><i>{more} more in data.report()</i></div>" if more > 0 else ""
    return "".join(finding_html(finding) for finding in findings[:_SHOWN_FINDINGS]) + tail
