"""The table the textbooks print: 7B, 13B and 70B, trained in full, with LoRA and with QLoRA, on usual cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ft_magic.memory.cards import CARDS, TEXTBOOK, UNKNOWN
from ft_magic.memory.inverse import fits
from ft_magic.memory.memory import RUNTIME, Memory
from ft_magic.memory.question import read_architecture, setting
from ft_magic.memory.step import peak

# The models those tables mean (Llama 2, config.json of each).
_LLAMA_2: dict[str, Any] = {"model_type": "llama", "vocab_size": 32000, "tie_word_embeddings": False}
MODELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "7B": _LLAMA_2
        | {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 11008,
        },
        "13B": _LLAMA_2
        | {
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "intermediate_size": 13824,
        },
        "70B": _LLAMA_2
        | {
            "hidden_size": 8192,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "intermediate_size": 28672,
        }
        | {"num_key_value_heads": 8},
    }
)
# Full fine-tuning is where published figures part: 16-bit everything, or fp32 masters with 16-bit arithmetic.
ROWS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "full, fp32 weights": {"update": "full"},
        "full, pure 16 bit": {"update": "full", "precision": "pure"},
        "LoRA": {"update": "lora"},
        "QLoRA": {"update": "qlora"},
    }
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        model: name of the size.
        update: what is trained.
        memory: the peak with its parts.
        cards: whether it fits, by card.
        why: the number explained, part by part.
    """

    model: str
    update: str
    memory: Memory
    cards: Mapping[str, bool]
    why: str


def textbook(
    models: Sequence[str] = tuple(MODELS), *, max_length: int = 2048, micro_batch_size: int = 1, **asked: Any
) -> list[Row]:
    """Return the table for one length and micro-batch, each number with its parts."""
    rows = []
    for name in models:
        sizes = read_architecture(MODELS[name])
        for title, fixed in ROWS.items():
            step = setting(
                **{**asked, **fixed, "max_length": max_length, "micro_batch_size": micro_batch_size}
            )
            memory = peak(sizes, step, UNKNOWN)
            good = {card: fits(peak(sizes, step, CARDS[card]), CARDS[card]) for card in TEXTBOOK}
            rows.append(Row(name, title, memory, good, explained(memory)))
    return rows


def explained(memory: Memory) -> str:
    """Return the parts of a peak as one sum, the largest first, in GB of 10^9 bytes."""
    parts = sorted(memory.parts.items(), key=lambda part: -part[1])
    shown = [f"{name} {size / 1e9:.1f}" for name, size in parts if size >= 5e7 and name != RUNTIME]
    return f"{' + '.join(shown)} GB, at its {memory.instant} peak"
