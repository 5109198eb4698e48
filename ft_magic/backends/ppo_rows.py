"""Which prompts PPO answers, in which order. Worker only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ft_magic.backends import Emit, rows
from ft_magic.errors import DataError
from ft_magic.planning.plans import Plan
from ft_magic.template import Tokenizer


def fed_rows(
    path: Path, tokenizer: Tokenizer, plan: Plan, emit: Emit, which: str, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a file as ``prompt_ids``, ``prompt_text`` and their columns; tell those left out.

    Args:
        path: JSON-lines file of normalised rows.
        tokenizer: of the policy.
        plan: of the run.
        emit: where a warning goes.
        which: what to call the rows in it.
        limit: at most so many.

    Raises:
        DataError: no training row is left.
    """
    made = rows.tokenized(path, tokenizer, plan, limit)
    if made.dropped:
        emit(
            "warning",
            message=f"{made.dropped.total()} {which} prompts are left out: {made.reasons}.",
            fix="Repair or shorten them, lower max_completion_length or raise max_length.",
        )
    if not made.rows and limit is None:
        raise DataError(
            f"none of the {which} prompts can be used: {made.reasons or 'there are no rows'}.",
            "Look at %ft template for each row.",
        )
    return made.rows


def rows_of_step(
    found: Sequence[Mapping[str, Any]], done: int, size: int, seed: int
) -> list[Mapping[str, Any]]:
    """Return the prompts of a step: each pass over the rows is shuffled anew, by the seed and its number alone.

    Args:
        found: all rows.
        done: steps before this one.
        size: prompts a step.
        seed: of the run.
    """
    places = range(done * size, (done + 1) * size)
    orders = {
        number: _order(len(found), seed, number) for number in {place // len(found) for place in places}
    }
    return [found[orders[place // len(found)][place % len(found)]] for place in places]


def _order(count: int, seed: int, number: int) -> list[int]:
    shuffled: list[int] = torch.randperm(
        count, generator=torch.Generator().manual_seed(seed + number)
    ).tolist()
    return shuffled
