"""What ``%ft data`` does: read, repair where asked, and make the report card."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from ft_magic.errors import SpecError
from ft_magic.shell import actions, calls
from ft_magic.shell.actions import Variables

if TYPE_CHECKING:
    from ft_magic.data import Data
    from ft_magic.template.tokenizer import Tokenizer


def data(arguments: Namespace, variables: Variables) -> Data:
    """Read data, repair what ``--fix`` names and report on every row; the report card is how it shows itself."""
    from ft_magic.data import load_data
    from ft_magic.data.reading.asked import PARTS
    from ft_magic.ui.live import ProgressLine

    columns = _columns(arguments.columns) if arguments.columns else None
    source = actions.value(arguments.source, variables)
    parts = {part: getattr(arguments, part) for part in PARTS}
    with ProgressLine("Reading data") as progress:
        rows = load_data(
            source,
            signal=arguments.signal,
            columns=columns,
            limit=arguments.limit,
            progress=progress,
            **parts,
        )
    heldout = load_data(actions.value(arguments.heldout, variables)) if arguments.heldout else None
    tokenizer = _tokenizer(arguments, variables)
    names = [name.strip() for name in (arguments.fix or "").split(",") if name.strip()]
    rows = rows.fix(*names, heldout=heldout, tokenizer=tokenizer, max_length=arguments.max_length)
    with ProgressLine("Looking at every row", "Looked at every row") as progress:
        rows.report(tokenizer, arguments.max_length, heldout, progress)
    return rows


def _tokenizer(arguments: Namespace, variables: Variables) -> Tokenizer | None:
    """Return the tokenizer of ``--model``, which counts tokens; None where none is named."""
    if not arguments.model:
        if arguments.max_length is not None:
            raise SpecError(
                f"--max-length {arguments.max_length} counts tokens, and no model says which.",
                f"Write --model demo --max-length {arguments.max_length}",
            )
        return None
    from ft_magic import models
    from ft_magic.template.tokenizer import Tokenizer

    model = actions.value(arguments.model, variables)
    return Tokenizer.load(models.resolve(str(getattr(model, "path", model))))


def _columns(text: str) -> dict[str, str]:
    """Read ``role=column,role=column``."""
    pairs = [part.partition("=") for part in calls.unquote(text).split(",") if part.strip()]
    for role, equals, column in pairs:
        if not (role.strip() and equals and column.strip()):
            raise SpecError(
                f"--columns {text} cannot be read.", "Write --columns prompt=question,completion=answer"
            )
    return {role.strip(): column.strip() for role, _, column in pairs}
