"""The questions turned round: what is the largest, or the cheapest, that fits a card?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.memory.cards import CARDS, UNKNOWN, Card
from ft_magic.memory.memory import Memory
from ft_magic.memory.question import card_named, read_architecture, setting, with_changes
from ft_magic.memory.setting import Loss, Setting
from ft_magic.memory.step import needed_bytes, peak
from ft_magic.models.architecture import Architecture

# What can be searched, and where the search ends.
LIMITS = {"micro_batch": 4096, "length": 1_048_576, "rank": 8192}


@dataclass(frozen=True)
class Change:
    """One way to need less.

    Attributes:
        name: the setting and its value, as in a spec.
        cost: what it costs, in words.
        memory: what is needed then.
        fits: whether that fits the card.
    """

    name: str
    cost: str
    memory: Memory
    fits: bool


def fits(memory: Memory, card: Card) -> bool:
    """Return whether a step fits a card.

    The allocator frees its unused blocks before it gives up: fragmentation does not count, the context does.
    """
    return memory.allocated_bytes + card.context_bytes <= card.memory_bytes


def largest(model: object, what: str, gpu: str, **asked: Any) -> int:
    """Return the largest ``micro_batch``, ``length`` or ``rank`` that fits a card; 0 where even 1 does not.

    Args:
        model: as for ``estimate_memory``.
        what: one of ``LIMITS``.
        gpu: the card.
        **asked: the other settings.

    Raises:
        SpecError: ``what`` cannot be searched.
    """
    if what not in LIMITS:
        raise SpecError(f"'{what}' cannot be searched.", f"Choose one of: {', '.join(LIMITS)}.")
    sizes, base, card = read_architecture(model), setting(**asked), card_named(gpu)

    def needed(value: int) -> int:
        return needed_bytes(sizes, with_changes(base, **{what: value}), card)

    limit, low, high = card.memory_bytes, 1, LIMITS[what]
    at_low, at_high = needed(low), needed(high)
    if at_low > limit or at_high <= limit:
        return 0 if at_low > limit else high
    straight = True
    while high - low > 1:
        # Memory grows nearly in a straight line: every other guess lies on it, the rest halve what is left.
        guess = (
            low + int((limit - at_low) * (high - low) / (at_high - at_low)) if straight else (low + high) // 2
        )
        guess, straight = min(max(guess, low + 1), high - 1), not straight
        size = needed(guess)
        low, at_low, high, at_high = (
            (guess, size, high, at_high) if size <= limit else (low, at_low, guess, size)
        )
    return low


def cards_that_fit(model: object, gpus: Iterable[str] = tuple(CARDS), **asked: Any) -> list[str]:
    """Return the cards a step fits on, the smallest first."""
    sizes, step = read_architecture(model), setting(**asked)
    cards = {name: card_named(name) for name in gpus}
    bare = {
        flash: needed_bytes(sizes, step, replace(UNKNOWN, flash=flash, context_bytes=0, cublas_bytes=0))
        for flash in {card.flash for card in cards.values()}
    }

    def needed(card: Card) -> int:
        if step.loss.kind == "budgeted":  # takes what the card leaves
            return needed_bytes(sizes, step, card)
        return bare[card.flash] + card.workspace_bytes + card.context_bytes

    good = [name for name, card in cards.items() if needed(card) <= card.memory_bytes]
    return sorted(good, key=lambda name: cards[name].memory_bytes)


def cheaper(model: object, gpu: str, **asked: Any) -> list[Change]:
    """Return what would make a step need less, the least costly first; what is on already is left out."""
    sizes, card = read_architecture(model), card_named(gpu)
    found = []
    for name, cost, changed, _ in lighter(sizes, card, **asked):
        memory = peak(sizes, changed, card)
        found.append(Change(name, cost, memory, fits(memory, card)))
    return found


def lighter(model: Architecture, card: Card, **asked: Any) -> list[tuple[str, str, Setting, int]]:
    """Return name, cost, setting and needed bytes of what would need less: ``cheaper`` without replays."""
    base = setting(**asked)
    now = needed_bytes(model, base, card)
    found = []
    for name, cost, changed in _ways(base, asked):
        size = needed_bytes(model, changed, card)
        if size < now and (card.flash or changed.attention == base.attention):
            found.append((name, cost, changed, size))
    return found


def _ways(base: Setting, asked: dict[str, Any]) -> list[tuple[str, str, Setting]]:
    half = max(1, base.micro_batch // 2)
    shorter = max(256, base.length // 2)
    ways = [
        ("loss: chunked", "nothing: the same loss, computed in chunks", _chunked(base)),
        (
            "optim: adamw_8bit",
            "nearly nothing: states in 8 bits",
            setting(**{**asked, "optim": "adamw_8bit"}),
        ),
        ("attention: flash", "nothing, on cards from 2020 on", replace(base, attention="flash")),
        (
            f"micro_batch_size: {half}",
            "some speed; the effective batch stays",
            replace(base, micro_batch=half),
        ),
        ("micro_batch_size: 1", "speed; the effective batch stays", replace(base, micro_batch=1)),
        ("gradient_checkpointing: true", "a third more time", _checkpointed(base)),
    ]
    if asked.get("update", "lora") == "full":
        ways.append(("update: lora", "fewer weights train", setting(**{**asked, "update": "lora"})))
    if asked.get("update", "lora") in ("full", "lora"):
        ways.append(("update: qlora", "time, and a 4-bit base", setting(**{**asked, "update": "qlora"})))
    ways.append((f"max_length: {shorter}", "longer rows are cut", replace(base, length=shorter)))
    return ways


def _chunked(base: Setting) -> Setting:
    return replace(base, loss=Loss("chunked")) if base.loss.kind == "full" and base.sides == 1 else base


def _checkpointed(base: Setting) -> Setting:
    return replace(base, checkpointing="layers") if base.checkpointing == "none" else base


def cheapest(model: Architecture | object, gpu: str, **asked: Any) -> Change | None:
    """Return the least costly single change that makes a step fit; None where no single one does."""
    return next((change for change in cheaper(model, gpu, **asked) if change.fits), None)
