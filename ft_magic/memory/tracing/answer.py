"""A trace as the same answer the closed form gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_magic.memory.cards import find_card
from ft_magic.memory.memory import FRAGMENTATION, RUNTIME, Memory
from ft_magic.memory.records import read_metric
from ft_magic.memory.tracing.records import record_settings
from ft_magic.memory.tracing.settings import Traced

# Allocated bytes of published measurements lie within this share of the trace; reserved and device bytes depend on
# how the weights were loaded and how lengths varied.
_ALLOCATED_BAND = (0.98, 1.02)
_DEVICE_BAND = (0.95, 1.10)


def trace_record(record: Mapping[str, Any]) -> Memory:
    """Return the traced memory of a published measurement, in bytes, in its metric.

    Raises:
        SpecError: the row's code is not Hugging Face's own, or its facts are incomplete.
        ModelError: the installed transformers has no class for the model.
    """
    from ft_magic.memory.tracing.engine import traced

    config, settings = record_settings(record)
    return as_memory(
        traced(config, settings), read_metric(record), find_card(str(record.get("gpu") or "")).context_bytes
    )


def as_memory(traced: Traced, metric: str, context_bytes: int) -> Memory:
    """Return a trace as a ``Memory``.

    Args:
        traced: the trace.
        metric: what its ``peak_bytes`` is: ``allocated``, ``reserved`` or ``device``.
        context_bytes: what the runtime takes beside PyTorch's allocator.
    """
    parts = dict(traced.parts)
    parts[FRAGMENTATION] = traced.reserved_bytes - traced.allocated_bytes
    parts[RUNTIME] = context_bytes
    note = f"traced in {traced.seconds:.1f} s; {traced.layers_traced} layers ran"
    band = _ALLOCATED_BAND if metric == "allocated" else _DEVICE_BAND
    return Memory(parts, instant=traced.instant, metric=metric, error=band, notes=(note,))
