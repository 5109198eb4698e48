"""Rows of a run as token ids and labels, made once and shared by every backend."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ft_magic.planning.plans import Plan
from ft_magic.template import Tokenizer, render
from ft_magic.template.render import render_pair

IGNORED = -100  # label that torch's cross entropy and TRL leave out of the loss


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the normalised rows of a JSON-lines file; nothing where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def tokenized(
    path: Path, tokenizer: Tokenizer, plan: Plan, limit: int | None = None
) -> list[dict[str, list[int]]]:
    """Return the rows of a file in the columns TRL's collators read.

    Returns:
        For pairs ``prompt_ids``, ``chosen_ids``, ``rejected_ids``; else ``input_ids`` and ``labels`` of equal
        length, with ``IGNORED`` where a token carries no loss. Rows without any trained token are left out: they
        would give a zero loss.
    """
    make = _pair if plan.method.signal == "pair" else _single
    found = (make(row, tokenizer, plan.settings.max_length) for row in read(path))
    return list(islice((row for row in found if row is not None), limit))


def _single(
    row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int
) -> dict[str, list[int]] | None:
    rendered = render(tokenizer, row, max_length_tokens=max_length_tokens)
    if not any(rendered.mask):
        return None
    labels = [
        token if trained else IGNORED for token, trained in zip(rendered.ids, rendered.mask, strict=True)
    ]
    return {"input_ids": list(rendered.ids), "labels": labels}


def _pair(
    row: Mapping[str, Any], tokenizer: Tokenizer, max_length_tokens: int
) -> dict[str, list[int]] | None:
    chosen, rejected, prompt_tokens = render_pair(tokenizer, row, max_length_tokens=max_length_tokens)
    sides = {
        "prompt_ids": list(chosen.ids[:prompt_tokens]),
        "chosen_ids": list(chosen.ids[prompt_tokens:]),
        "rejected_ids": list(rejected.ids[prompt_tokens:]),
    }
    return sides if all(sides.values()) else None
