"""What ``%ft memory`` does: the peak of a step by part, on which cards it fits, and what would make it fit."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from ft_magic.shell import actions
from ft_magic.shell.actions import Variables

if TYPE_CHECKING:
    from ft_magic.memory import Memory
    from ft_magic.ui.show import Shown

# Options of the verb that are settings of the estimate.
SETTINGS = ("method", "update", "max_length", "micro_batch_size", "lora_r", "optim", "precision", "attention")


def memory(arguments: Namespace, variables: Variables) -> Shown:
    """Return the estimate as a table of parts, and what fits."""
    from ft_magic.memory.question import estimate_memory, read_architecture
    from ft_magic.memory.table import explained
    from ft_magic.ui.show import gib, shown_table

    if arguments.table:
        return _table(arguments)
    model = read_architecture(actions.value(arguments.model or "demo", variables))
    asked: dict[str, Any] = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name)}
    asked["gradient_checkpointing"] = not arguments.no_checkpointing
    found = estimate_memory(model, gpu=arguments.gpu, **asked)
    rows = [[part, gib(size)] for part, size in found.parts.items() if size]
    sums = [
        ["allocated", gib(found.allocated_bytes)],
        ["reserved", gib(found.reserved_bytes)],
        ["device", gib(found.device_bytes)],
    ]
    low, high = found.band
    notes = [
        f"Between {gib(low)} and {gib(high)}; {explained(found)}.",
        *found.notes,
        *_verdict(model, found, arguments.gpu, asked),
    ]
    title = f"{model.parameters / 1e6:,.0f} million weights, {asked.get('update', 'lora')}"
    return shown_table([*rows, *sums], ("part", "peak"), title=title, notes=notes)


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
