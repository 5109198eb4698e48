"""Peak memory by tracing a real training step without its weights, in the worker's environment.

``trace`` runs the installed libraries on the meta device and needs torch; this package itself imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_magic.memory.cards import UNKNOWN, Card
from ft_magic.memory.setting import Setting
from ft_magic.memory.tracing.answer import as_memory, trace_model, trace_record
from ft_magic.memory.tracing.traced import Instant, Traced

__all__ = ["Instant", "Traced", "as_memory", "trace", "trace_model", "trace_record"]


def trace(
    config: Mapping[str, Any] | str | Path, setting: Setting, card: Card = UNKNOWN, *, depth: str = "auto"
) -> Traced:
    """Return the peak memory of a training step in bytes, by part and by instant.

    Args:
        config: what ``config.json`` holds, or the path of that file or of its folder.
        setting: what is trained, and how.
        card: where: its kernels, workspaces and rounding.
        depth: ``full`` traces every layer; ``short`` traces few and extrapolates; ``auto`` chooses by depth.

    Raises:
        ModelError: the installed transformers has no causal language model for this config.
        SpecError: a setting asks for something that cannot be traced.
    """
    from ft_magic.memory.tracing.engine import traced

    return traced(config, setting, card, depth)
