"""``%ft synthesise`` and ``%ft review``: what was typed, to one call of ``ft.synthesise`` or ``ft.review``."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.shell import actions
from ft_magic.shell.judging import check_target, keep


def synthesise(arguments: Namespace, variables: actions.Variables) -> Any:
    """Let a model write rows; they go to ``-o``, a variable or a file."""
    from ft_magic.shell import yaml_body
    from ft_magic.synthesis import synthesise as made

    check_target("synthesise", arguments.out, variables)
    model = arguments.model
    more = {"patience": arguments.patience} if arguments.patience is not None else {}
    found = made(
        actions.value(arguments.seeds, variables) if arguments.seeds else None,
        actions.value(arguments.documents, variables) if arguments.documents else None,
        count=arguments.count,
        model=yaml_body.load_value(model) if model.startswith("{") else actions.value(model, variables),
        signal=arguments.signal,
        instructions=arguments.instructions or (arguments.body or "").strip(),
        seed=arguments.seed,
        **more,
    )
    if arguments.out:
        keep(found, arguments.out, variables)
    return found


def review(arguments: Namespace, variables: actions.Variables) -> Any:
    """Return the review of some rows, after the decisions that were typed."""
    from ft_magic.ui.review import review as reviewed

    check_target("review", arguments.out, variables)
    found = reviewed(actions.value(arguments.data, variables))
    for words, decide in (
        (arguments.accept, found.accept),
        (arguments.reject, found.reject),
        (arguments.undo, found.undo),
    ):
        if words:
            decide(*_rows(words, len(found)))
    if arguments.out:
        keep(found.data(), arguments.out, variables)
    return found


def _rows(words: str, count: int) -> list[int]:
    """Read ``0,3,5-9`` or ``all``."""
    if words == "all":
        return list(range(count))
    found: list[int] = []
    for word in words.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", word)
        if match is None:
            raise SpecError(f"review: '{words}' names no rows.", "Write 0,3,5-9 or all.")
        first = int(match[1])
        # Bounded here, so that a slip of the finger makes no endless list; a wrong number is refused later.
        found += range(first, min(int(match[2] or first), count) + 1)
    return found
