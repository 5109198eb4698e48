"""What can be chosen in the memory widget: models, menus, slider stops; and a message as a ``Choice``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from ft_magic.axes import METHODS, UPDATES
from ft_magic.errors import SpecError
from ft_magic.memory.cards import CARDS, find_card
from ft_magic.memory.inverse import LIMITS
from ft_magic.memory.question import OPTIMIZERS
from ft_magic.memory.table import MODELS
from ft_magic.models import read_config
from ft_magic.models.architecture import Architecture, architecture
from ft_magic.models.reference import DEMO

# Stops of the sliders; any other value can be typed beside them.
STOPS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "max_length": (
            128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072,
        ),
        "micro_batch_size": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
        "lora_r": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    }
)  # fmt: skip
# Slider -> what ``inverse.largest`` calls it.
SEARCHED: Mapping[str, str] = MappingProxyType(
    {"max_length": "length", "micro_batch_size": "micro_batch", "lora_r": "rank"}
)
# Least value of a slider that is not 1: what a spec takes.
LEAST: Mapping[str, int] = MappingProxyType({"max_length": 8})
PRECISIONS: Mapping[str, str] = MappingProxyType(
    {
        "bf16": "bf16 arithmetic",
        "fp16": "fp16 arithmetic",
        "fp32": "fp32, everything",
        "pure": "16-bit weights alone (full)",
    }
)
# Free on Colab and Kaggle: the card of most first runs.
_USUAL_CARD = "T4"
# config.json of SmolLM2-135M-Instruct, the model called ``demo``: naming it here must not unpack it.
_DEMO_SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    }
)
# Where the weights of the textbooks' sizes are.
_HUB = "meta-llama/Llama-2-{}-hf"
_LLAMA_2_TOKENS = 4096


@dataclass(frozen=True)
class Model:
    """A model of the menu.

    Attributes:
        label: what the menu calls it.
        sizes: its matrices.
        written: how a cell names it.
        python: how Python names it.
        longest_tokens: positions it knows, or None.
    """

    label: str
    sizes: Architecture
    written: str
    python: str
    longest_tokens: int | None = None


@dataclass(frozen=True)
class Choice:
    """What is chosen, in the words of a spec.

    Attributes:
        model: label of a model.
        method: row of the method axis.
        update: row of the update axis.
        max_length: tokens of the longest sequence.
        micro_batch_size: sequences in a forward pass.
        lora_r: rank.
        gradient_checkpointing: whether activations are recomputed.
        optim: name of an optimizer; empty = the plan's.
        precision: one of ``PRECISIONS``.
        gpu: key of the card.
        attention: ``sdpa``, ``flash`` or ``eager``; it has no menu.
        fill: slider that is set to the largest that fits the card; empty = none.
    """

    model: str = DEMO
    method: str = "sft"
    update: str = "lora"
    max_length: int = 2048
    micro_batch_size: int = 1
    lora_r: int = 16
    gradient_checkpointing: bool = True
    optim: str = ""
    precision: str = "bf16"
    gpu: str = _USUAL_CARD
    attention: str = "sdpa"
    fill: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of ``memory.question.setting``."""
        asked = asdict(self)
        for name in ("model", "gpu", "fill", *(() if self.has_rank else ("lora_r",))):
            del asked[name]
        return asked | {"optim": self.optim or None}

    @property
    def has_rank(self) -> bool:
        """Whether the rank means anything for the update."""
        return "lora_r" in UPDATES[self.update].options


# Fields that take one of a few words; the models are the widget's own.
_WORDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "method": tuple(METHODS),
        "update": tuple(UPDATES),
        "optim": ("", *OPTIMIZERS),
        "precision": tuple(PRECISIONS),
        "gpu": tuple(CARDS),
        "attention": ("sdpa", "flash", "eager"),
        "fill": ("", *SEARCHED),
    }
)


def read_choice(given: Mapping[str, Any], models: Sequence[Model]) -> Choice:
    """Return what a message says, checked.

    Raises:
        SpecError: a value that cannot be chosen.
    """
    words: dict[str, Sequence[str]] = {**_WORDS, "model": [model.label for model in models]}
    for name, value in given.items():
        if name in SEARCHED:
            least, most = LEAST.get(name, 1), LIMITS[SEARCHED[name]]
            good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
            hint = f"Write a whole number from {least} to {most:,}."
        elif name == "gradient_checkpointing":
            good, hint = isinstance(value, bool), "Switch it on or off."
        else:
            good = value in words.get(name, ())
            hint = f"Choose one of: {', '.join(filter(None, words.get(name, ())))}."
        if not good:
            raise SpecError(f"{name} cannot be {value!r}.", hint)
    return Choice(**given)


def with_number(choice: Choice, name: str, value: int) -> Choice:
    """Return a choice with one slider moved."""
    moved: dict[str, Any] = {name: value}
    return replace(choice, **moved)


def models_of(given: object, label: str, sizes: Architecture) -> tuple[Model, ...]:
    """Return the models of the menu: the one asked about, the demo, and the sizes that textbooks print.

    Args:
        given: what was asked about: a name, a folder, a config.
        label: what the user called it.
        sizes: its matrices.
    """
    variable = label.startswith("$")
    python = label[1:] if variable else json.dumps(label)
    # A config alone says nothing of where weights are.
    written = "folder-or-hub/id" if isinstance(given, Mapping) else label
    first = Model(label, sizes, written, python, _longest(given))
    rest = (demo_model(), *(_textbook(name) for name in MODELS))
    return (first, *(model for model in rest if model.label != label))


def demo_model() -> Model:
    """Return the bundled model."""
    sizes = architecture(_DEMO_SIZES)
    return Model(DEMO, sizes, DEMO, json.dumps(DEMO), _DEMO_SIZES["max_position_embeddings"])


def _textbook(name: str) -> Model:
    python = f'MODELS["{name}"]'
    return Model(
        f"Llama 2 {name}",
        architecture(MODELS[name]),
        _HUB.format(name.lower()),
        python,
        _LLAMA_2_TOKENS,
    )


def _longest(given: object) -> int | None:
    """Return the positions a model knows, where its config is at hand."""
    from pathlib import Path

    config: Mapping[str, Any] = {}
    if isinstance(given, Mapping):
        config = given
    elif given == DEMO:
        config = _DEMO_SIZES
    elif isinstance(given, str | Path) and Path(given).expanduser().exists():
        config = read_config(Path(given).expanduser())
    found = config.get("max_position_embeddings")
    return found if isinstance(found, int) else None


def menus(models: Sequence[Model]) -> dict[str, list[list[str]]]:
    """Return the menus of the widget: (value, words) by field."""
    return {
        "model": [[model.label, f"{model.label} ({_count(model.sizes.parameters)})"] for model in models],
        "method": [[row.name, row.name] for row in METHODS.values()],
        "update": [[row.name, row.name] for row in UPDATES.values()],
        "precision": [[name, words] for name, words in PRECISIONS.items()],
        "optim": [["", "usual for the update"], *([name, name] for name in OPTIMIZERS)],
        "gpu": [[name, f"{card.name} ({card.memory_bytes / 2**30:.1f} GiB)"] for name, card in CARDS.items()],
        "fill": [
            ["", "nothing"],
            ["max_length", "length"],
            ["micro_batch_size", "micro-batch"],
            ["lora_r", "rank"],
        ],
    }


def _count(weights: int) -> str:
    return f"{weights / 1e9:.1f} B" if weights >= 1e9 else f"{weights / 1e6:.0f} M"


def card_key(name: str | None) -> str:
    """Return the key of a card that people may call otherwise; the usual one where none is named."""
    found = find_card(name or "")
    return next((key for key, card in CARDS.items() if card is found), _USUAL_CARD)
