"""Split: which rows are held out so that no prompt stands on both sides."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ft_magic.data.report.near_duplicates import near_matches_within
from ft_magic.data.row import Row, canonical, prompt_text
from ft_magic.errors import DataError

if TYPE_CHECKING:
    from ft_magic.data.data import Data

_NOT_LOOKED_AT = "; near-duplicates not looked at"


def split(data: Data, eval_fraction: float, seed: int, near: bool) -> tuple[Data, Data]:
    """Return (train, held-out), see ``Data.split``."""
    if not 0 < eval_fraction < 1:
        raise DataError(
            f"eval_fraction is {eval_fraction}, it must lie between 0 and 1.", "Write 0.1 for a tenth."
        )
    groups, unit = _groups(data)
    together = f"equal {unit} together{_NOT_LOOKED_AT}"
    if near:
        groups, together = _joined(data.rows, groups), f"equal {unit} and near-duplicates together"
    random.Random(seed).shuffle(groups)  # noqa: S311  reproducible choice, not a secret
    target = min(max(1, round(len(data) * eval_fraction)), len(data) - 1)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= target:
            held.update(group)
    if not held:
        smallest = min(len(group) for group in groups)
        held.update(next(group for group in groups if len(group) == smallest))
    note = f"split {eval_fraction:g}, seed {seed}, {together}"
    train = [index for index in range(len(data)) if index not in held]
    return data.part(train, f"train side of {note}"), data.part(sorted(held), f"held-out side of {note}")


def _groups(data: Data) -> tuple[list[list[int]], str]:
    """Return the indices of rows that must stay on one side, and what they have in common."""
    keys: tuple[tuple[Callable[[Row], str], str], ...] = ((prompt_text, "prompts"), (canonical, "rows"))
    for key, unit in keys:
        groups: dict[str, list[int]] = {}
        for index, row in enumerate(data.rows):
            groups.setdefault(key(row), []).append(index)
        if len(groups) > 1:
            return list(groups.values()), unit
    raise DataError(
        f"{data.name} has {len(data)} rows and fewer than two different ones: nothing can be held out.",
        "Give more rows, or data of its own to evaluate on.",
    )


def _joined(rows: Sequence[Row], groups: list[list[int]]) -> list[list[int]]:
    """Return the groups, those with rows that resemble each other as one.

    Raises:
        DataError: all rows resemble each other, or a package is missing.
    """
    group_of = {index: number for number, group in enumerate(groups) for index in group}
    root = list(range(len(groups)))

    def root_of(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for match in near_matches_within(rows):
        first, second = sorted((root_of(group_of[match.row]), root_of(group_of[match.like])))
        root[second] = first
    merged: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        merged.setdefault(root_of(number), []).extend(group)
    if len(merged) < 2:
        raise DataError(
            f"All {len(rows)} rows resemble each other: nothing can be held out.",
            "Leave near=True out, or data.fix('near_duplicates') first.",
        )
    return [sorted(group) for group in merged.values()]
