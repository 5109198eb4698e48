"""Carry a model's tokenizer files along unchanged.

transformers 5 rewrites them on saving (no ``tokenizer.model``, another class name), which breaks converters, so
the base's own files are copied verbatim.
"""

from __future__ import annotations

import shutil
from pathlib import Path

NAMES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip


def copy_tokenizer_files(source: Path, target: Path) -> tuple[str, ...]:
    """Copy every tokenizer file of ``source`` into ``target`` and return their names."""
    found = tuple(name for name in NAMES if (source / name).is_file())
    for name in found:
        shutil.copy2(source / name, target / name)
    return found
