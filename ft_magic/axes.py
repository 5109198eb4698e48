"""Fine-tuning = signal (data) x method (loss) x update (which weights). Read this file first.

Each axis is one table of frozen rows. Magics, command-line options, help texts, README tables, form choices and
the parametrised tests are generated from these rows; no other file lists them. What goes together with what is
decided in ``plan.py`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from ft_magic.errors import SpecError, nearest

Row = TypeVar("Row")


@dataclass(frozen=True)
class Signal:
    """What one normalised example carries.

    Attributes:
        name: the word users write.
        title: one sentence for tables and help.
        fields: the shapes a row may have, each a tuple of keys that must all be present.
        example: a small row of this signal.
    """

    name: str
    title: str
    fields: tuple[tuple[str, ...], ...]
    example: Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """Which loss is minimised.

    Attributes:
        name: the word users write and the name of its magic (``%%name``).
        title: one sentence for tables and help.
        signal: name of the signal it reads.
        trainer: ``module:Class`` of the TRL trainer, resolved in the worker.
        config: ``module:Class`` of its arguments.
        learning_rates: default learning rate for ``adapter`` and for ``full`` updates.
        source: where the loss and the defaults come from.
        settings: trainer arguments fixed by this method.
        options: spec keys only this kind of method reads (``beta``, ``loss_type``).
        metrics: trainer metrics worth a chart, in display order.
    """

    name: str
    title: str
    signal: str
    trainer: str
    config: str
    learning_rates: Mapping[str, float]
    source: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    options: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """Which weights change.

    Attributes:
        name: the word users write.
        title: one sentence for tables and help.
        family: ``full`` or ``adapter``: picks the method's default learning rate.
        backends: names of the backends that run it.
        source: paper or library it comes from.
        peft: name of the PEFT configuration class, or empty when no adapter is used.
        bits: bits of a frozen, quantized base, or 0 when the base is not quantized.
        settings: arguments of the PEFT class fixed by this update.
        options: spec keys only this kind of update reads.
    """

    name: str
    title: str
    family: str
    backends: tuple[str, ...]
    source: str
    peft: str = ""
    bits: int = 0
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    options: tuple[str, ...] = ()


SIGNALS: Mapping[str, Signal] = MappingProxyType(
    {
        row.name: row
        for row in (
            Signal(
                "text",
                "Raw text: the model learns to continue it.",
                (("text",),),
                {"text": "Crepes are thin pancakes from Brittany."},
            ),
            Signal(
                "demo",
                "Demonstrations: a prompt or conversation with the answer to imitate.",
                (("messages",), ("prompt", "completion")),
                {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
            ),
            Signal(
                "pair",
                "Preferences: a prompt with a better and a worse answer.",
                (("prompt", "chosen", "rejected"),),
                {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "No."},
            ),
        )
    }
)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        row.name: row
        for row in (
            Method(
                name="sft",
                title="Supervised fine-tuning: imitate the answers; loss on the answer tokens only.",
                signal="demo",
                trainer="trl:SFTTrainer",
                config="trl:SFTConfig",
                # 2e-4 adapter: QLoRA paper table 9 and Unsloth's default; 2e-5 full: TRL SFTConfig's default.
                learning_rates=MappingProxyType({"adapter": 2e-4, "full": 2e-5}),
                source="Ouyang et al. 2022, arXiv 2203.02155; TRL SFTTrainer",
            ),
            Method(
                name="cpt",
                title="Continued pretraining: learn the language and facts of raw text; loss on every token.",
                signal="text",
                trainer="trl:SFTTrainer",
                config="trl:SFTConfig",
                # 5e-5 adapter: Unsloth's continued-pretraining notebooks; 2e-5 full: TRL SFTConfig's default.
                learning_rates=MappingProxyType({"adapter": 5e-5, "full": 2e-5}),
                source="Gururangan et al. 2020, arXiv 2004.10964; TRL SFTTrainer",
            ),
            Method(
                name="dpo",
                title="Direct preference optimisation: raise the better answer over the worse one.",
                signal="pair",
                trainer="trl:DPOTrainer",
                config="trl:DPOConfig",
                # 1e-6 full: TRL DPOConfig's default; 5e-6 adapter: Unsloth's and Zephyr's LoRA recipes.
                learning_rates=MappingProxyType({"adapter": 5e-6, "full": 1e-6}),
                source="Rafailov et al. 2023, arXiv 2305.18290; TRL DPOTrainer",
                options=("beta", "loss_type"),
                metrics=("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected"),
            ),
        )
    }
)

# Keys of the spec that LoRA and its relatives read.
_LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")

UPDATES: Mapping[str, Update] = MappingProxyType(
    {
        row.name: row
        for row in (
            Update(
                name="full",
                title="Every weight of the model.",
                family="full",
                backends=("trl", "unsloth"),
                source="plain fine-tuning",
            ),
            Update(
                name="lora",
                title="Small low-rank matrices beside frozen weights.",
                family="adapter",
                peft="LoraConfig",
                options=_LORA_KEYS,
                backends=("trl", "unsloth"),
                source="Hu et al. 2021, arXiv 2106.09685",
            ),
            Update(
                name="qlora",
                title="LoRA over a base held in 4-bit NF4 with double quantization.",
                family="adapter",
                peft="LoraConfig",
                bits=4,
                options=_LORA_KEYS,
                backends=("trl", "unsloth"),
                source="Dettmers et al. 2023, arXiv 2305.14314",
            ),
            Update(
                name="dora",
                title="LoRA that learns the length of each weight column apart from its direction.",
                family="adapter",
                peft="LoraConfig",
                settings=MappingProxyType({"use_dora": True}),
                options=_LORA_KEYS,
                backends=("trl",),
                source="Liu et al. 2024, arXiv 2402.09353",
            ),
            Update(
                name="rslora",
                title="LoRA scaled by the root of its rank, so that high ranks learn as fast as low ones.",
                family="adapter",
                peft="LoraConfig",
                settings=MappingProxyType({"use_rslora": True}),
                options=_LORA_KEYS,
                backends=("trl",),
                source="Kalajdzievski 2023, arXiv 2312.03732",
            ),
        )
    }
)


def find_method(name: str) -> Method:
    """Return a method's row.

    Raises:
        SpecError: no such method.
    """
    return _find("method", name, METHODS)


def find_update(name: str) -> Update:
    """Return an update's row.

    Raises:
        SpecError: no such update.
    """
    return _find("update", name, UPDATES)


def find_signal(name: str) -> Signal:
    """Return a signal's row.

    Raises:
        SpecError: no such signal.
    """
    return _find("signal", name, SIGNALS)


def signal_of(row: Mapping[str, Any]) -> Signal | None:
    """Return the signal whose fields a normalised row has, the most specific first; None where none fits."""
    for signal in (SIGNALS["pair"], SIGNALS["demo"], SIGNALS["text"]):
        if any(all(key in row for key in keys) for keys in signal.fields):
            return signal
    return None


def _find(axis: str, name: str, table: Mapping[str, Row]) -> Row:
    if name in table:
        return table[name]
    raise SpecError(
        f"{axis} '{name}' does not exist.{nearest(name, table)}", f"Choose one of: {', '.join(table)}."
    )
