"""Peak memory by tracing a real training step without its weights, in the worker's environment.

``trace`` runs the installed libraries on the meta device and needs torch; this package itself imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_magic.memory.tracing.answer import as_memory, trace_record
from ft_magic.memory.tracing.records import record_settings
from ft_magic.memory.tracing.settings import Adapter, Instant, Quantized, Traced, TraceSettings

__all__ = [
    "Adapter",
    "Instant",
    "Quantized",
    "TraceSettings",
    "Traced",
    "as_memory",
    "record_settings",
    "trace",
    "trace_record",
]


def trace(config: Mapping[str, Any] | str | Path, settings: TraceSettings) -> Traced:
    """Return the peak memory of a training step in bytes, by part and by instant.

    Args:
        config: what ``config.json`` holds, or the path of that file or of its folder.
        settings: what is trained, and how.

    Raises:
        ModelError: the installed transformers has no causal language model for this config.
        SpecError: a setting names something that cannot be traced.
    """
    from ft_magic.memory.tracing.engine import traced

    return traced(config, settings)
