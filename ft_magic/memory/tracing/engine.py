"""From a config and settings to peak memory. Imported in the worker alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers

from ft_magic.errors import SpecError
from ft_magic.memory.allocator import replay
from ft_magic.memory.tracing.depth import MIDDLE, TRACED, stretched
from ft_magic.memory.tracing.ledger import LAYER, Ledger
from ft_magic.memory.tracing.losses import LOSSES
from ft_magic.memory.tracing.model import built, configured, read
from ft_magic.memory.tracing.optimizers import OPTIMIZERS
from ft_magic.memory.tracing.phases import Recording
from ft_magic.memory.tracing.settings import Traced, TraceSettings
from ft_magic.memory.tracing.step import run, trainer

# Below this depth every layer is traced: it takes about as long.
_SHORT_FROM = 8
# Its temporaries live one weight after another; stretched, they would live together.
_LOOP = "adamw_loop"
_PHASES = ("load", "resident", "forward", "backward", "optimizer")


def traced(config: Mapping[str, Any] | str | Path, settings: TraceSettings) -> Traced:
    """Return the peak memory of a training step; see ``ft_magic.memory.tracing.trace``."""
    _check(settings)
    begin = time.perf_counter()
    values = read(config)
    recording, trained, layers = _recorded(values, settings)
    allocator = replay(recording.events, recording.sizes)
    found = recording.instants(allocator.granted if settings.card.cuda else None)
    top = max(found, key=lambda row: row.allocated_bytes)
    last = tuple(row for row in found if row.name in _PHASES)
    return Traced(
        allocated_bytes=top.allocated_bytes,
        reserved_bytes=allocator.peak_reserved_bytes,
        parts=MappingProxyType(dict(top.parts)),
        instant=top.name.removeprefix("earlier "),
        timeline=last,
        trained_parameters=trained,
        layers_traced=layers,
        seconds=time.perf_counter() - begin,
    )


def _recorded(values: dict[str, Any], settings: TraceSettings) -> tuple[Recording, int, int]:
    """Return the recording of the whole model, how many weights train, and how many layers really ran."""
    whole = configured(values)
    layers = whole.num_hidden_layers
    shortens = settings.optimizer != _LOOP and settings.depth != "full"
    if shortens and layers > (TRACED if settings.depth == "short" else _SHORT_FROM):
        few, trained = record(configured(values, TRACED), settings)
        more = stretched(few, layers)
        if more is not None:
            return more, trained.total() + (layers - TRACED) * trained[MIDDLE], TRACED
    recording, trained = record(whole, settings)
    return recording, trained.total(), layers


def record(config: Any, settings: TraceSettings, device: str = "meta") -> tuple[Recording, Counter[int]]:
    """Return what a run of the steps allocates, and how many weights train in each layer (-1: in none).

    Args:
        config: transformers config.
        settings: what is trained, and how.
        device: ``meta``, or ``cpu`` for real tensors.
    """
    card = settings.card
    ledger = Ledger(config.vocab_size, rounding_bytes=card.rounding_bytes, cuda=card.cuda, device=device)
    ledger.mark("load")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        model = built(config, settings, ledger, device)
        reference = _reference(config, settings, ledger, device)
        work = trainer(model, reference, settings, ledger, device)
        run(work)
    finally:
        transformers.logging.set_verbosity(level)
    trained: Counter[int] = Counter()
    for name, row in model.named_parameters():
        found = LAYER.search(name)
        trained[int(found[1]) if found else -1] += row.numel() if row.requires_grad else 0
    # A copy: what dies with this function is no event of the step.
    recording = Recording(
        tuple(ledger.events),
        tuple(ledger.sizes),
        tuple(ledger.tags),
        tuple(ledger.marks),
        tuple(ledger.owners),
        tuple(ledger.runs),
    )
    return recording, trained


def _reference(config: Any, settings: TraceSettings, ledger: Ledger, device: str) -> torch.nn.Module | None:
    if not settings.reference:
        return None
    return built(config, settings, ledger, device).requires_grad_(requires_grad=False).eval()


def _check(settings: TraceSettings) -> None:
    for name, table in (("method", LOSSES), ("optimizer", OPTIMIZERS)):
        if getattr(settings, name) not in table:
            raise SpecError(
                f"{name} '{getattr(settings, name)}' cannot be traced.", f"Choose from: {', '.join(table)}."
            )
    if settings.quantized is not None and settings.adapter is None:
        raise SpecError("A quantized base is not trained itself.", "Give an adapter, or no quantization.")
    if settings.method == "dpo" and settings.adapter is None and not settings.reference:
        raise SpecError("DPO of all weights needs a reference.", "Set reference=True.")
