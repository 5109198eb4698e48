"""How many weights an update trains, in closed form from the model's sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ft_magic.axes import Update
from ft_magic.models import ModelFacts


@dataclass(frozen=True)
class Size:
    """What the spec says of an update's size; see ``Spec`` for the fields."""

    lora_r: int = 16
    vera_r: int = 256
    adapter_size: int = 64
    adapters_a_layer: int = 2
    num_virtual_tokens: int = 20
    trainable_layers: int | None = None


def parameters(facts: ModelFacts) -> int:
    """Return the model's weights: counted where known, else from its sizes with a gated feed-forward part."""
    if facts.parameters is not None:
        return facts.parameters
    embedding = facts.vocab_size * facts.hidden_size * (1 if facts.tied_embeddings else 2)
    return facts.layers * _matrices(facts) + embedding


def trained_parameters(facts: ModelFacts, update: Update, size: Size) -> int:
    """Return how many weights train.

    Args:
        facts: sizes of the model.
        update: row of the update axis.
        size: how large the update is.
    """
    if update.peft:
        lengths = facts.layers * _outputs(facts) if update.settings.get("use_dora") else 0
        return _ADAPTERS[update.peft](facts, size) + lengths
    if "trainable_layers" in update.options:
        layers = size.trainable_layers or math.ceil(facts.layers / 4)
        norms = 2 * layers + 1
        return layers * _matrices(facts) + norms * facts.hidden_size
    return parameters(facts)


def _widths(facts: ModelFacts) -> tuple[int, int, int, int]:
    """Return the widths of hidden states, queries, keys (and values), and the feed-forward part."""
    return (
        facts.hidden_size,
        facts.heads * facts.head_dim,
        facts.kv_heads * facts.head_dim,
        facts.intermediate_size,
    )


def _matrices(facts: ModelFacts) -> int:
    """Weights of one layer's matrices."""
    hidden, queries, keys, inner = _widths(facts)
    return hidden * (2 * queries + 2 * keys + 3 * inner)


def _outputs(facts: ModelFacts) -> int:
    """Outputs of one layer's matrices, counted together."""
    hidden, queries, keys, inner = _widths(facts)
    return queries + 2 * keys + hidden + 2 * inner + hidden


def _lora(facts: ModelFacts, size: Size) -> int:
    hidden, queries, keys, inner = _widths(facts)
    sides = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return facts.layers * size.lora_r * sides


def _vera(facts: ModelFacts, size: Size) -> int:
    return facts.layers * (7 * size.vera_r + _outputs(facts))


def _ia3(facts: ModelFacts, _: Size) -> int:
    return facts.layers * (2 * facts.kv_heads * facts.head_dim + facts.intermediate_size)


def _bottleneck(facts: ModelFacts, size: Size) -> int:
    hidden, width = facts.hidden_size, size.adapter_size
    return facts.layers * size.adapters_a_layer * (2 * hidden * width + hidden + width)


def _prompt(facts: ModelFacts, size: Size) -> int:
    return size.num_virtual_tokens * facts.hidden_size


def _prefix(facts: ModelFacts, size: Size) -> int:
    return size.num_virtual_tokens * facts.layers * 2 * facts.kv_heads * facts.head_dim


def _ptuning(facts: ModelFacts, size: Size) -> int:
    hidden = facts.hidden_size
    return size.num_virtual_tokens * hidden + 3 * (hidden * hidden + hidden)


# PEFT class -> its trained weights; counted on a real model by tests/test_updates.py
_ADAPTERS: Mapping[str, Callable[[ModelFacts, Size], int]] = MappingProxyType(
    {
        "LoraConfig": _lora,
        "ft_magic.backends.pissa:PissaConfig": _lora,
        "VeraConfig": _vera,
        "IA3Config": _ia3,
        "ft_magic.backends.bottleneck:BottleneckConfig": _bottleneck,
        "PromptTuningConfig": _prompt,
        "PrefixTuningConfig": _prefix,
        "PromptEncoderConfig": _ptuning,
    }
)
