"""A trace as the same answer the closed form gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_magic.errors import SpecError
from ft_magic.memory.cards import Card, find_card
from ft_magic.memory.memory import FRAGMENTATION, RUNTIME, Memory
from ft_magic.memory.records import assumptions, read_setting, record_config
from ft_magic.memory.setting import Setting
from ft_magic.memory.stacks import frame, read_metric
from ft_magic.memory.tracing.traced import Traced

# Allocated bytes of published measurements lie within this share of the trace; reserved and device bytes depend on
# how the weights were loaded and how lengths varied.
_ALLOCATED_BAND = (0.98, 1.02)
_DEVICE_BAND = (0.95, 1.10)
# Trainers with model code of their own, which the installed transformers does not show.
_OTHER_MODELS = ("litgpt", "torchtune")


def trace_record(record: Mapping[str, Any]) -> Memory:
    """Return the traced memory of a published measurement, in bytes, in its metric.

    Raises:
        SpecError: the row's code is not Hugging Face's own.
        ModelError: the installed transformers has no class for the model.
    """
    library = frame(record)
    if any(name in library for name in _OTHER_MODELS):
        raise SpecError(
            f"Row {record.get('id')} cannot be traced: {library} has models of its own.",
            "Use engine='closed'.",
        )
    setting, card = read_setting(record), find_card(str(record.get("gpu") or ""))
    return trace_model(record_config(record), setting, card, read_metric(record), assumptions(record))


def trace_model(
    config: Mapping[str, Any],
    setting: Setting,
    card: Card,
    metric: str = "device",
    notes: tuple[str, ...] = (),
) -> Memory:
    """Return the traced memory of a training step, in bytes.

    Args:
        config: what ``config.json`` holds.
        setting: what is trained, and how.
        card: where.
        metric: what its ``peak_bytes`` is: ``allocated``, ``reserved`` or ``device``.
        notes: what was assumed.

    Raises:
        SpecError: a setting asks for something that cannot be traced.
        ModelError: the installed transformers has no class for the model.
    """
    from ft_magic.memory.tracing.engine import traced

    return as_memory(traced(config, setting, card), metric, card.context_bytes, notes)


def as_memory(traced: Traced, metric: str, context_bytes: int, notes: tuple[str, ...] = ()) -> Memory:
    """Return a trace as a ``Memory``.

    Args:
        traced: the trace.
        metric: what its ``peak_bytes`` is: ``allocated``, ``reserved`` or ``device``.
        context_bytes: what the runtime takes beside PyTorch's allocator.
        notes: what was assumed.
    """
    parts = dict(traced.parts)
    parts[FRAGMENTATION] = traced.reserved_bytes - traced.allocated_bytes
    parts[RUNTIME] = context_bytes
    note = f"traced in {traced.seconds:.1f} s; {traced.layers_traced} layers ran"
    band = _ALLOCATED_BAND if metric == "allocated" else _DEVICE_BAND
    return Memory(
        parts, instant=traced.instant, metric=metric, error=band, notes=(note, *traced.notes, *notes)
    )
