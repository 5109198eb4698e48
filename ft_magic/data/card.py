"""Small HTML cards for data and reports. Everything shown is escaped; colours work on light and dark."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ft_magic.data.labels import label_counts
from ft_magic.data.report.shingles import spread
from ft_magic.data.row import answer_text, contents, prompt_text, shortened

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.data.report.finding import Finding
    from ft_magic.data.report.lengths import RoleLengths
    from ft_magic.data.report.quality import Report

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
_REPORT_UP_TO_CHARACTERS = 10_000_000  # a card must not take seconds; 10,000 rows of 1 KB take about two
_WEIGHED_ROWS = 100
_SHOWN_FINDINGS = 8
_EXAMPLE_CHARACTERS = 240
_BAR, _HIGH = 12, 20  # pixels


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
    """Return the card of a report: lengths of each role, notes, one line a finding."""
    title = (
        f"<b>{escape(report.name)}</b>: {report.rows} {escape(report.signal)} rows, median "
        f"{report.length_median:.10g}, longest {report.length_max} {report.unit}"
    )
    notes = "".join(f'<div style="opacity:.8">{escape(note)}</div>' for note in report.notes)
    lines = [finding_html(finding) for finding in report.findings] or ["<div>Nothing is off.</div>"]
    return box(title + length_table(report.roles, report.unit) + notes + "".join(lines))


def length_table(roles: Sequence[RoleLengths], unit: str) -> str:
    """Return a row for each role: how many turns, how long they are, and a histogram."""
    if not roles:
        return ""
    heads = ("", "count", "median", "90 % up to", "longest", f"{unit}, from short to long, doubling")
    head = "".join(f'<th style="{_CELL};opacity:.7;font-weight:normal">{escape(text)}</th>' for text in heads)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL}">{escape(text)}</td>'
            for text in (role.role, str(role.count), f"{role.median:.10g}", f"{role.p90:.10g}", str(role.max))
        )
        + f'<td style="{_CELL};white-space:nowrap">{_histogram(role)}</td></tr>'
        for role in roles
    )
    return f'<table style="border-collapse:collapse;background:none"><tr>{head}</tr>{rows}</table>'


def _histogram(role: RoleLengths) -> str:
    """Return a small picture of the bins in use; an ``<img>`` survives where inline SVG is taken out."""
    used = [index for index, number in enumerate(role.bins) if number]
    bins, top = role.bins[used[0] :], max(role.bins)
    bars = "".join(
        f'<rect x="{_BAR * place}" y="{_HIGH - height}" width="{_BAR - 2}" height="{height}" '
        f'fill="{LEVEL_COLOURS["info"]}"/>'
        for place, height in enumerate(round(_HIGH * number / top) or (1 if number else 0) for number in bins)
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_BAR * len(bins)}" height="{_HIGH}">{bars}</svg>'
    low, high = role.range_of_bins
    counts = ", ".join(str(number) for number in bins)
    source = base64.b64encode(svg.encode()).decode()
    return (
        f'{low} <img alt="lengths {low} to {high}: {counts}" style="display:inline;vertical-align:middle" '
        f'src="data:image/svg+xml;base64,{source}"> {high}'
    )


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


def _characters(data: Data) -> float:
    """Return about how many characters some data hold, from a hundred rows evenly spread."""
    sample = spread(len(data), _WEIGHED_ROWS)
    return (
        len(data) / max(len(sample), 1) * sum(len(text) for index in sample for text in contents(data[index]))
    )


def _top_findings(data: Data) -> str:
    if data.last_report is None and _characters(data) > _REPORT_UP_TO_CHARACTERS:
        return "<div><i>data.report() looks at every row</i></div>"
    report = data.last_report or data.report()
    more = len(report.findings) - _SHOWN_FINDINGS
    tail = f"<div><i>{more} more in data.report()</i></div>" if more > 0 else ""
    lines = [finding_html(finding) for finding in report.findings[:_SHOWN_FINDINGS]]
    return length_table(report.roles, report.unit) + "".join(lines or ["<div>Nothing is off.</div>"]) + tail
