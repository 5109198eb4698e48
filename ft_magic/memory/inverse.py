"""The questions turned round: what is the largest, or the cheapest, that fits a card?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.memory.cards import CARDS, Card
from ft_magic.memory.memory import Memory
from ft_magic.memory.question import card_named, read_architecture, setting, with_changes
from ft_magic.memory.setting import Loss, Setting
from ft_magic.memory.step import peak
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

    def good(value: int) -> bool:
        return fits(peak(sizes, with_changes(base, **{what: value}), card), card)

    if not good(1):
        return 0
    low, high = 1, 2
    while high <= LIMITS[what] and good(high):
        low, high = high, 2 * high
    high = min(high, LIMITS[what] + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def cards_that_fit(model: object, gpus: Iterable[str] = tuple(CARDS), **asked: Any) -> list[str]:
    """Return the cards a step fits on, the smallest first."""
    sizes, step = read_architecture(model), setting(**asked)
    cards = {name: card_named(name) for name in gpus}
    good = [name for name, card in cards.items() if fits(peak(sizes, step, card), card)]
    return sorted(good, key=lambda name: cards[name].memory_bytes)


def cheaper(model: object, gpu: str, **asked: Any) -> list[Change]:
    """Return what would make a step need less, the least costly first; what is on already is left out."""
    sizes, base, card = read_architecture(model), setting(**asked), card_named(gpu)
    found = []
    for name, cost, changed in _ways(base, asked):
        if changed != base:
            memory = peak(sizes, changed, card)
            found.append(Change(name, cost, memory, fits(memory, card)))
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
