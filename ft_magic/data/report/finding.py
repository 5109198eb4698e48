"""A finding: one thing that is off in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LEVELS = ("problem", "warning", "info")
_SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is off.

    Attributes:
        name: short name; also of the fix, where there is one.
        level: ``info``, ``warning`` or ``problem``.
        count: number of rows concerned.
        message: what it is and why it matters.
        examples: some of the rows concerned, as in ``data[i]``.
        fix: what to write, or empty.
        rows: all rows concerned, where the finding is about single rows.
    """

    name: str
    level: str
    count: int
    message: str
    examples: tuple[int, ...] = ()
    fix: str = ""
    rows: tuple[int, ...] = field(default=(), repr=False)


def finding_line(finding: Finding) -> str:
    """Return a finding as one line of text."""
    rows = f" (rows {', '.join(map(str, finding.examples))})" if finding.examples else ""
    fix = f" Fix: {finding.fix}" if finding.fix else ""
    return f"  {finding.level}: {finding.message}{rows}{fix}"


def finding_of(name: str, level: str, rows: Sequence[int], message: str, fix: str = "") -> Finding | None:
    """Return a finding about these rows, None where there are none; ``{n}`` stands for their number."""
    if not rows:
        return None
    text = message.replace("{n}", f"{len(rows)} row{'s' if len(rows) > 1 else ''}")
    return Finding(name, level, len(rows), text, tuple(rows[:_SHOWN_EXAMPLES]), fix, tuple(rows))
