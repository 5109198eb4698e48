"""Leakage: rows that are also, or nearly, in the data kept for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.report.near_duplicates import can_look, near_matches
from ft_magic.data.report.repeats import digest
from ft_magic.data.row import Row, canonical, prompt_text
from ft_magic.progress import Progress, silent


@dataclass(frozen=True)
class Leak:
    """A row that is also held out.

    Attributes:
        row: index of the row.
        like: index of the held-out row.
        how: ``equal``, ``prompt`` (the same prompt) or ``near``.
    """

    row: int
    like: int
    how: str


def leaks(
    rows: Sequence[Row], heldout: Sequence[Row], progress: Progress = silent, *, near: bool = True
) -> list[Leak]:
    """Return the rows that are also held out, in order; near ones only where the packages for it are installed.

    Equal prompts count as a leak except where all held-out rows share one prompt: then rows are compared whole.

    Args:
        rows: to train on.
        heldout: to evaluate on.
        progress: told how far it is, in rows.
        near: whether nearly equal rows are looked for as well, at about 0.1 ms a row of 1 KB.
    """
    whole = {digest(canonical(row)): index for index, row in reversed(list(enumerate(heldout)))}
    prompts = {digest(prompt_text(row)): index for index, row in reversed(list(enumerate(heldout)))}
    one_prompt = len(prompts) == 1 and len(whole) > 1
    found: dict[int, Leak] = {}
    for index, row in enumerate(rows):
        same = whole.get(digest(canonical(row)))
        asked = None if one_prompt or same is not None else prompts.get(digest(prompt_text(row)))
        if same is not None:
            found[index] = Leak(index, same, "equal")
        elif asked is not None:
            found[index] = Leak(index, asked, "prompt")
    if near and can_look():
        for match in near_matches(rows, heldout, found, progress):
            found[match.row] = Leak(match.row, match.like, "near")
    return [found[index] for index in sorted(found)]


def leakage_finding(found: Sequence[Leak], heldout: int) -> Finding | None:
    """Return the finding about leaks, None where there are none."""
    hows = [leak.how for leak in found]
    words = {"equal": "equal rows", "prompt": "with an equal prompt", "near": "nearly equal"}
    counts = ", ".join(f"{hows.count(how)} {text}" for how, text in words.items() if how in hows)
    shown = ", ".join(f"{leak.row} is held-out {leak.like}" for leak in found[:3])
    touched = len({leak.like for leak in found})
    message = (
        f"{{n}} also among the {heldout} held-out ones ({counts}; {shown}): {touched} held-out rows measure memory, "
        "not learning."
    )
    return finding_of(
        "leakage", "problem", [leak.row for leak in found], message, "data.fix('leakage', heldout=other)"
    )
