"""How an advice and the table of rules show themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_magic.advising import rules
from ft_magic.advising.evidence import nats, share
from ft_magic.advising.figures import Figures, Way
from ft_magic.advising.metrics import METRICS
from ft_magic.ui.show import (
    BAD,
    GOOD,
    WARN,
    Html,
    Shown,
    badge_html,
    escape,
    heading_html,
    note_html,
    pre_html,
    shown_table,
)

if TYPE_CHECKING:
    from ft_magic.advising.advice import Advice, Told

_COLOURS = {
    rules.FINE_TUNE: GOOD,
    rules.BOTH: GOOD,
    rules.DO_NOT: BAD,
    rules.DEPENDS: WARN,
    rules.COLLECT: WARN,
}
_WAYS = (("question alone", "zero"), ("random examples", "few"), ("similar examples", "nearest"))
_SHOWN_SAMPLES = 3


def shown_advice(advice: Advice) -> Shown:
    """Return verdict, evidence and next cell of an advice."""
    head = _head(advice)
    if advice.figures.examples:
        head += _ways(advice.figures, advice.told)
    cells = [[line.what, line.value, line.says] for line in advice.evidence if not line.tabled]
    head += shown_table(cells, title="Evidence", notes=advice.notes)
    if advice.samples:
        tried = advice.samples[:_SHOWN_SAMPLES]
        lines = [[one.question, one.expected, one.zero, one.few, one.nearest] for one in tried]
        columns = ("question", "expected", *(said for said, _ in _WAYS))
        head += shown_table(lines, columns, title=f"{len(tried)} of {len(advice.samples)} held-out questions")
    cell = Shown(heading_html("Next cell") + pre_html(advice.next_cell), f"Next cell\n{advice.next_cell}")
    return head + cell


def rule_table() -> Shown:
    """Return the table of rules as it is read: from above, the first that applies decides."""
    rows = [
        [number, rule.when, rule.verdict, rule.why, rule.source] for number, rule in enumerate(rules.RULES, 1)
    ]
    header = ("", "when", "verdict", "why", "source")
    note = (
        "The first rule that applies decides. A question of the form that nobody has answered is tried with every "
        "answer: where these lead to different verdicts, it depends."
    )
    title = "Prompting, retrieval or fine-tuning?"
    # In a terminal the sentences are longer than the cells of a table.
    lines = [
        f"{number}. {when}: {verdict}.\n   {why}\n   {source}" for number, when, verdict, why, source in rows
    ]
    return Shown(shown_table(rows, header, title=title, notes=[note]).html, "\n".join([title, *lines, note]))


def _head(advice: Advice) -> Shown:
    told = advice.told
    title = f"{told.model} on {told.data}: {advice.verdict}"
    badge = badge_html(advice.verdict, _COLOURS.get(advice.verdict, GOOD))
    lines = [advice.why, *([f"Source: {advice.source}."] if advice.source else [])]
    sections = [
        ("", list(advice.conditions)),
        ("Does not fit together", list(advice.contradictions)),
        ("What would change the verdict", list(advice.changes)),
    ]
    html = heading_html(Html(f"{escape(f'{told.model} on {told.data}')}: {badge}")) + "".join(
        map(note_html, lines)
    )
    text = [title, *lines]
    for heading, found in sections:
        if found:
            html += (heading_html(heading) if heading else "") + "".join(map(note_html, found))
            text += [*([f"{heading}:"] if heading else []), *(f"- {line}" for line in found)]
    return Shown(html, "\n".join(text))


def _ways(found: Figures, told: Told) -> Shown:
    first = found.few or found.zero
    others = [METRICS[name].title for name, _ in first.scores] if first else []
    header = (
        "way of asking",
        "examples",
        "prompt tokens",
        METRICS[found.metric].title,
        *others,
        "loss a token",
    )
    rows = [_way_cells(said, way) for said, name in _WAYS if (way := getattr(found, name)) is not None]
    note = (
        f"{found.examples} held-out rows, tried in {told.took_s:.0f} s; in brackets 95 % intervals. Loss: of the "
        "expected answers, lower is better."
    )
    return shown_table(rows, header, title="The model as it is", notes=[note])


def _way_cells(said: str, way: Way) -> list[object]:
    tokens = None if way.prompt_tokens is None else round(way.prompt_tokens)
    return [
        said,
        f"{way.shots:.1f}",
        tokens,
        share(way.score) if way.score else None,
        *(share(found) for _, found in way.scores),
        nats(way.loss) if way.loss else None,
    ]
