"""What the memory widget answers to a choice: the parts, a verdict, what would make it fit, the cell it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ft_magic.axes import METHODS, UPDATES
from ft_magic.memory import inverse
from ft_magic.memory.cards import CARDS, Card
from ft_magic.memory.memory import Memory
from ft_magic.memory.question import setting
from ft_magic.memory.step import needed_bytes, peak
from ft_magic.planning import plans
from ft_magic.ui.memory_cell import cell_of, code_of
from ft_magic.ui.memory_chart import axis_bytes, shares
from ft_magic.ui.memory_choices import LEAST, SEARCHED, Choice, Model, with_number
from ft_magic.ui.show import BAD, GOOD, WARN, gib

# One after the other, the least costly first, where no single change is enough.
_TOGETHER: tuple[tuple[str, Any], ...] = (
    ("optim", "adamw_8bit"),
    ("micro_batch_size", 1),
    ("gradient_checkpointing", True),
    ("update", "lora"),
    ("update", "qlora"),
    ("max_length", 1024),
    ("max_length", 512),
    ("max_length", 256),
)
# Suggestions of ``inverse`` that a spec can say.
_APPLIED = frozenset(name for name, _ in _TOGETHER)
_NAMES: Mapping[str, str] = MappingProxyType(
    {"max_length": "length", "micro_batch_size": "micro-batch", "lora_r": "rank"}
)


@dataclass(frozen=True)
class Verdict:
    """Whether a step fits a card.

    Attributes:
        level: ``fits``, ``tight`` (fits, unless the estimate is too low), ``close`` (does not, unless it is too high)
            or ``over``.
        words: the same with its numbers.
    """

    level: str
    words: str

    @property
    def colour(self) -> str:
        """Green, amber or red."""
        return {"fits": GOOD, "over": BAD}.get(self.level, WARN)

    @property
    def fits(self) -> bool:
        """Whether the estimate fits."""
        return self.level in ("fits", "tight")


def verdict(needed: int, card: Card, error: tuple[float, float]) -> Verdict:
    """Return whether so many bytes fit a card, given how far off the estimate may be."""
    low, high = round(needed * error[0]), round(needed * error[1])
    limit, off = card.memory_bytes, f"the estimate may be {100 * (error[1] - 1):.0f}\u00a0% off"
    needs = f"needs {gib(needed)} of {gib(limit)}"
    if high <= limit:
        return Verdict("fits", f"Fits the {card.name}: {needs}, {gib(limit - needed)} stay free.")
    if needed <= limit:
        return Verdict(
            "tight", f"Fits the {card.name}, but barely: {needs}, {gib(limit - needed)} stay free, and {off}."
        )
    if low <= limit:
        return Verdict(
            "close",
            f"Probably does not fit the {card.name}: {needs}, {gib(needed - limit)} too much, though {off}.",
        )
    return Verdict("over", f"Does not fit the {card.name}: {needs}, {gib(needed - limit)} too much.")


def answer(choice: Choice, models: Sequence[Model]) -> dict[str, Any]:
    """Return everything the widget shows for a choice, as JSON values."""
    model = next(model for model in models if model.label == choice.model)
    card = CARDS[choice.gpu]
    choice, filled = _filled(choice, model)
    step = setting(**choice.asked)
    memory = peak(model.sizes, step, card)
    needed = memory.allocated_bytes + card.context_bytes
    said = verdict(needed, card, memory.error)
    return {
        "choice": {name: getattr(choice, name) for name in Choice.__dataclass_fields__},
        "has_rank": choice.has_rank,
        "parts": [[name, size, gib(size), colour, words] for name, size, colour, words in shares(memory)],
        "axis": axis_bytes(memory, card),
        "limit": card.memory_bytes,
        "limit_words": f"{card.name}: {gib(card.memory_bytes)}",
        "level": said.level,
        "colour": said.colour,
        "verdict": said.words,
        "notes": [*filled, *_notes(choice, model, memory, card)],
        "ways": [] if said.fits else _ways(choice, model, card),
        "largest": _largest(choice, model),
        "models": [
            [other.label, needed_bytes(other.sizes, step, card) <= card.memory_bytes] for other in models
        ],
        "cards": inverse.cards_that_fit(model.sizes, **choice.asked),
        "cell": cell_of(choice, model, card),
        "code": code_of(choice, model),
    }


def _filled(choice: Choice, model: Model) -> tuple[Choice, list[str]]:
    """Return the choice with the slider that follows the card set, and what to say of it."""
    name = choice.fill
    if not name or (name == "lora_r" and not choice.has_rank):
        return choice, []
    found, least = _most(name, choice, model), LEAST.get(name, 1)
    if not found:
        return with_number(choice, name, least), [f"Not even a {_NAMES[name]} of {least} fits this card."]
    return with_number(choice, name, found), [f"The largest {_NAMES[name]} that fits is {found:,}."]


def _most(name: str, choice: Choice, model: Model) -> int:
    """Return the largest value of a slider that fits, all else as chosen; 0 where none does."""
    found = inverse.largest(model.sizes, SEARCHED[name], choice.gpu, **choice.asked)
    return found if found >= LEAST.get(name, 1) else 0


def _notes(choice: Choice, model: Model, memory: Memory, card: Card) -> list[str]:
    size, (low, high) = memory.device_bytes, memory.error
    notes = [
        f"Peak {gib(size)} ({gib(size * low)} to {gib(size * high)}), at the {memory.instant} peak of a step.",
        *memory.notes,
    ]
    method, update = METHODS[choice.method], UPDATES[choice.update]
    reason = plans.refusal(method, update, next(name for name in method.backends if name != "unsloth"))
    if reason:
        notes.append(f"{choice.method} with {choice.update} is refused: {reason}.")
    if not card.flash and choice.precision == "bf16":
        notes.append(f"The {card.name} has no bf16: the cell says fp16, which takes the same room.")
    if choice.precision == "pure" and update.family == "full":
        notes.append(
            "16-bit weights alone are what others do; ft_magic trains all weights in fp32 (choose bf16)."
        )
    if model.longest_tokens and choice.max_length > model.longest_tokens:
        notes.append(
            f"The model knows {model.longest_tokens:,} positions; longer rows need more than memory."
        )
    return notes


def _largest(choice: Choice, model: Model) -> list[list[Any]]:
    """Return (field, words, value or 0) of the largest of each slider, all else as it is."""
    return [
        [name, words, _most(name, choice, model)]
        for name, words in _NAMES.items()
        if name != "lora_r" or choice.has_rank
    ]


def _ways(choice: Choice, model: Model, card: Card) -> list[dict[str, Any]]:
    """Return what would need less, the least costly first; and all of it together where nothing alone is enough."""
    ways: list[dict[str, Any]] = []
    for written, cost, _, needed in inverse.lighter(model.sizes, card, **choice.asked):
        name, _, value = written.partition(": ")
        if name in _APPLIED and written not in {way["name"] for way in ways}:
            fits = needed <= card.memory_bytes
            words = f"needs {gib(needed)}, {'fits' if fits else 'not enough'}; costs {cost}"
            ways.append({"name": written, "words": words, "fits": fits, "set": {name: _typed(name, value)}})
    if any(way["fits"] for way in ways):
        return ways
    return [*ways, _together(choice, model, card)]


def _typed(name: str, value: str) -> Any:
    if name in SEARCHED:
        return int(value)
    return value == "true" if name == "gradient_checkpointing" else value


def _together(choice: Choice, model: Model, card: Card) -> dict[str, Any]:
    """Return the fewest of the changes that fit together, taken in the order of their cost."""

    def needed(changes: Mapping[str, Any]) -> int:
        return needed_bytes(model.sizes, setting(**replace(choice, **changes).asked), card)

    changes: dict[str, Any] = {}
    now = needed(changes)
    for name, value in _TOGETHER:
        if now <= card.memory_bytes:
            break
        if name in SEARCHED and value >= getattr(choice, name):
            continue
        then = needed(changes | {name: value})
        if then < now:
            changes, now = changes | {name: value}, then
    if now > card.memory_bytes:
        words = f"all of it together still needs {gib(now)}: take a larger card or a smaller model"
        return {"name": "nothing here is enough", "words": words, "fits": False, "set": {}}
    for name in list(changes):
        fewer = {key: value for key, value in changes.items() if key != name}
        if needed(fewer) <= card.memory_bytes:
            changes = fewer
    named = ", ".join(f"{name}: {str(value).lower()}" for name, value in changes.items())
    words = f"needs {gib(needed(changes))}, fits"
    return {"name": named, "words": words, "fits": True, "set": changes}
