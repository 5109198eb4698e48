"""What ``%ft memory`` does: the peak of a step by part, on which cards it fits, and what would make it fit."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from ft_magic.shell import actions
from ft_magic.shell.actions import Variables

if TYPE_CHECKING:
    from ft_magic.memory import Memory
    from ft_magic.ui.memory_choices import Choice
    from ft_magic.ui.memory_view import MemoryCard
    from ft_magic.ui.show import Shown

# Options of the verb that are settings of the estimate.
SETTINGS = ("method", "update", "max_length", "micro_batch_size", "lora_r", "optim", "precision", "attention")


def memory(arguments: Namespace, variables: Variables) -> Shown | MemoryCard:
    """Return the estimate as a table of parts with a chart, and what fits; in a notebook with a widget."""
    from ft_magic.memory.question import card_named, estimate_memory, read_architecture
    from ft_magic.memory.table import explained
    from ft_magic.ui.memory_choices import models_of
    from ft_magic.ui.memory_view import MemoryCard, shown_memory
    from ft_magic.ui.show import gib

    if arguments.table:
        return _table(arguments)
    label = arguments.model or "demo"
    given = actions.value(label, variables)
    model = read_architecture(given)
    asked: dict[str, Any] = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name)}
    asked["gradient_checkpointing"] = not arguments.no_checkpointing
    engine = arguments.engine or "closed"
    found = estimate_memory(given if engine == "trace" else model, engine=engine, gpu=arguments.gpu, **asked)
    low, high = found.band
    notes = [
        f"Between {gib(low)} and {gib(high)}; {explained(found)}.",
        *found.notes,
        *_verdict(model, found, arguments.gpu, asked),
    ]
    title = f"{model.parameters / 1e6:,.0f} million weights, {asked.get('update', 'lora')}"
    return MemoryCard(
        memory=found,
        shown=shown_memory(found, title, notes),
        card=card_named(arguments.gpu) if arguments.gpu else None,
        choice=_choice(label, arguments.gpu, asked),
        models=models_of(given, label, model),
    )


def _choice(label: str, gpu: str | None, asked: dict[str, Any]) -> Choice:
    """Return what the widget starts with: what was asked, and the usual card where none was named."""
    from ft_magic.ui.memory_choices import Choice, card_key

    return Choice(model=label, gpu=card_key(gpu), **asked)


def _verdict(model: object, found: Memory, gpu: str | None, asked: dict[str, Any]) -> list[str]:
    from ft_magic.memory import inverse
    from ft_magic.memory.question import card_named
    from ft_magic.ui.show import gib

    if not gpu:
        return [f"Fits on: {', '.join(inverse.cards_that_fit(model, **asked)) or 'no card of the table'}."]
    card = card_named(gpu)
    if inverse.fits(found, card):
        batch = inverse.largest(model, "micro_batch", gpu, **asked)
        length = inverse.largest(model, "length", gpu, **asked)
        longest = f"a length of {length:,} tokens (as far as memory goes)"
        return [f"Fits a {card.name}; so would a micro-batch of {batch}, or {longest}."]
    ways = [
        f"{change.name} -> {gib(change.memory.device_bytes)}{' (fits)' if change.fits else ''}, costs {change.cost}"
        for change in inverse.cheaper(model, gpu, **asked)
    ]
    return [f"Does not fit a {card.name} ({gib(card.memory_bytes)}). What would need less:", *ways]


def _table(arguments: Namespace) -> Shown:
    from ft_magic.memory.cards import TEXTBOOK
    from ft_magic.memory.table import textbook
    from ft_magic.ui.show import shown_table

    length, batch = arguments.max_length or 2048, arguments.micro_batch_size or 1
    lines = textbook(max_length=length, micro_batch_size=batch)
    rows = [
        [
            line.model,
            line.update,
            f"{line.memory.total_bytes / 1e9:.1f}",
            *("yes" if line.cards[card] else "no" for card in TEXTBOOK),
        ]
        for line in lines
    ]
    notes = [f"{line.model} {line.update}: {line.why}." for line in lines]
    title = f"Peak in GB (10^9 bytes), {length} tokens, micro-batch {batch}"
    return shown_table(rows, ("model", "update", "GB", *TEXTBOOK), title=title, notes=notes)
