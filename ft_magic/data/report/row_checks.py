"""Row checks: what can be off in a single row, one line of a table each, all looked for in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.report.personal import Personal, personal_finding, personal_in
from ft_magic.data.report.refusals import refuses
from ft_magic.data.report.remnants import has_blank, has_html, is_damaged
from ft_magic.data.row import Message, Row, contents, prompt_text
from ft_magic.progress import Progress, silent

_TOLD_EVERY_ROWS = 10_000


@dataclass(frozen=True)
class RowCheck:
    """What can be off in a single row.

    Attributes:
        name: of the finding and of its fix.
        level: of the finding.
        holds: whether it is so, given the row and all its texts joined by newlines.
        message: the finding's; ``{n}`` stands for the number of rows.
    """

    name: str
    level: str
    holds: Callable[[Row, str], bool]
    message: str


def is_empty(row: Row) -> bool:
    """Return whether a row lacks its text, its prompt or an answer; prompts alone need none, a tool call is one."""
    answers = [row[key] for key in ("messages", "completion", "chosen", "rejected") if key in row]
    return not prompt_text(row).strip() or not all(map(_answers, answers))


def _answers(said: str | list[Message]) -> bool:
    """Return whether the assistant says something, or calls a tool, in an answer or a conversation."""
    if isinstance(said, str):
        return bool(said.strip())
    turns = [turn for turn in said if turn["role"] == "assistant"]
    return any((turn["content"] or "").strip() or turn.get("tool_calls") for turn in turns)


ROW_CHECKS: tuple[RowCheck, ...] = (
    RowCheck("empty", "problem", lambda row, _: is_empty(row), "{n} without a prompt or an answer."),
    RowCheck(
        "refusals", "warning", lambda row, _: refuses(row),
        "{n} with an answer that refuses or says it is a machine ('As an AI language model, I cannot ...'): "
        "the model learns to; keep those you mean.",
    ),
    RowCheck(
        "placeholders", "warning", lambda _, text: has_blank(text),
        "{n} with an unfilled placeholder such as {{name}} or [Your Name].",
    ),
    RowCheck(
        "encoding", "warning", lambda _, text: is_damaged(text),
        "{n} with damaged characters (U+FFFD, half a character, or 'Ã©' where 'é' was meant).",
    ),
    RowCheck(
        "html", "info", lambda _, text: has_html(text),
        "{n} with HTML outside code: the model will learn to write it.",
    ),
)  # fmt: skip


def row_findings(rows: Sequence[Row], progress: Progress = silent) -> list[Finding | None]:
    """Return what is off in single rows, personal data included."""
    hits: list[list[int]] = [[] for _ in ROW_CHECKS]
    personal: dict[int, list[Personal]] = {}
    checks = [(check.holds, hit) for check, hit in zip(ROW_CHECKS, hits, strict=True)]
    for index, row in enumerate(rows):
        text = "\n".join(contents(row))
        for holds, hit in checks:
            if holds(row, text):
                hit.append(index)
        if found := personal_in(text):
            personal[index] = found
        if index % _TOLD_EVERY_ROWS == 0:
            progress("looking at every row", index, len(rows))
    return [
        *(
            finding_of(check.name, check.level, hit, check.message, f"data.fix('{check.name}')")
            for check, hit in zip(ROW_CHECKS, hits, strict=True)
        ),
        personal_finding(personal),
    ]
