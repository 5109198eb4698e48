"""The cell and the Python that a choice in the memory widget stands for."""

from __future__ import annotations

import json
import re
from dataclasses import fields

from ft_magic.axes import METHODS
from ft_magic.memory.cards import Card
from ft_magic.ui.memory_choices import Choice, Model

_PLAIN = re.compile(r"[$~./]?[A-Za-z_./][\w./-]*")
# What a method cannot do without -> a line that asks for it.
_NEEDS = {
    "rewards": "rewards: $reward",
    "rewards|judge": "rewards: $reward",
    "judge": "judge: $judge",
    "teacher": "teacher: $teacher",
}


def cell_of(choice: Choice, model: Model, card: Card) -> str:
    """Return a cell that trains what is chosen, on the data in the variable ``ds``."""
    # "pure" is no precision of a spec. Cards without FlashAttention have no bf16 either (compute capability below 8.0).
    precision = "bf16" if choice.precision == "pure" else choice.precision
    precision = "fp16" if precision == "bf16" and not card.flash else precision
    lines = [
        "%%finetune run",
        f"model: {_yaml(model.written)}",
        "data: $ds",
        f"method: {choice.method}",
        *(_NEEDS[key] for key in METHODS[choice.method].needs if key in _NEEDS),
        f"update: {choice.update}",
        *([f"lora_r: {choice.lora_r}"] if choice.has_rank else []),
        f"max_length: {choice.max_length}",
        f"micro_batch_size: {choice.micro_batch_size}",
        f"gradient_checkpointing: {str(choice.gradient_checkpointing).lower()}",
        *([f"optim: {choice.optim}"] if choice.optim else []),
        f"precision: {precision}",
    ]
    return "\n".join(lines)


def _yaml(text: str) -> str:
    """Return a text as YAML reads it back: quoted where a folder's name means something there."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def code_of(choice: Choice, model: Model) -> str:
    """Return the Python that estimates what is chosen."""
    usual = {field.name: field.default for field in fields(Choice)}
    words = [
        f'gpu="{choice.gpu}"',
        f'method="{choice.method}"',
        f'update="{choice.update}"',
        f"max_length={choice.max_length}",
        f"micro_batch_size={choice.micro_batch_size}",
        *([f"lora_r={choice.lora_r}"] if choice.has_rank else []),
        f"gradient_checkpointing={choice.gradient_checkpointing}",
        *([f'optim="{choice.optim}"'] if choice.optim else []),
        *(
            f'{name}="{getattr(choice, name)}"'
            for name in ("precision", "attention")
            if getattr(choice, name) != usual[name]
        ),
    ]
    head = "from ft_magic.memory.table import MODELS\n\n" if model.python.startswith("MODELS[") else ""
    pairs = [", ".join(words[at : at + 2]) for at in range(0, len(words), 2)]
    lines = "".join(f"    {line},\n" for line in (model.python, *pairs))
    return f"{head}ft.estimate_memory(\n{lines})"
