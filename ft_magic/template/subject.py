"""What is audited: the tokenizer of whatever names or is one, and a conversation where no data is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ft_magic.data.data import Data
from ft_magic.errors import ModelError
from ft_magic.template.tokenizer import Tokenizer

# What a model is asked about where no data is given.
PROBE = Data(
    (
        {
            "messages": [
                {"role": "user", "content": "Name a colour."},
                {"role": "assistant", "content": "Blue."},
                {"role": "user", "content": "Another one."},
                {"role": "assistant", "content": "Green."},
            ]
        },
    ),
    "demo",
    "a small conversation",
)


def tokenizer_of(value: Any) -> Tokenizer:
    """Return the tokenizer of a model: its name, its folder or file, a run, or a tokenizer itself.

    Raises:
        ModelError: there is no such model or tokenizer.
    """
    if isinstance(value, Tokenizer):
        return value
    if hasattr(value, "apply_chat_template"):
        return Tokenizer.from_transformers(value)
    plan = Path(getattr(value, "path", "")) / "plan.json"
    if not isinstance(value, str | Path) and plan.is_file():  # a run: it trains with its base's tokenizer
        value = json.loads(plan.read_text(encoding="utf-8"))["model_folder"]
    if not isinstance(value, str | Path):
        raise ModelError(
            f"A {type(value).__name__} is no model or tokenizer.",
            "Give 'demo', a model folder (of a run: run.merge()), a GGUF file, a hub id or a tokenizer.",
        )
    folder = Path(value).expanduser()
    # A tokenizer alone is enough here, without any weights.
    if (folder / "tokenizer.json").is_file() or (folder.suffix == ".gguf" and folder.is_file()):
        return Tokenizer.load(folder)
    from ft_magic.models import resolve

    return Tokenizer.load(resolve(str(value)))
