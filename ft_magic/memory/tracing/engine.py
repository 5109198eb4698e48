"""From a config and a setting to peak memory. Imported in the worker alone."""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import transformers

from ft_magic.errors import SpecError, nearest
from ft_magic.memory.allocator import replay
from ft_magic.memory.cards import Card
from ft_magic.memory.setting import Setting
from ft_magic.memory.tracing import ppo
from ft_magic.memory.tracing.depth import MIDDLE, TRACED, stretched
from ft_magic.memory.tracing.ledger import LAYER, Ledger
from ft_magic.memory.tracing.model import built, configured, read
from ft_magic.memory.tracing.optimizers import is_loop
from ft_magic.memory.tracing.phases import Recording
from ft_magic.memory.tracing.step import LOSSES, run, trainer
from ft_magic.memory.tracing.traced import Instant, Traced

# Below this depth every layer is traced: it takes about as long.
_SHORT_FROM = 8
_PHASES = (
    "load", "resident", "reference", "generation", "scoring", "forward", "backward", "optimizer", "evaluation",
)  # fmt: skip
_METHODS = (*LOSSES, "ppo")
_OTHER_LOSSES = ("held_chunks",)  # torchtune's and litgpt's, whose models are their own


def traced(
    config: Mapping[str, Any] | str | Path, setting: Setting, card: Card, depth: str = "auto"
) -> Traced:
    """Return the peak memory of a training step; see ``ft_magic.memory.tracing.trace``."""
    _check(setting)
    begin = time.perf_counter()
    with _quiet():
        recording, trained, layers = _recorded(read(config), setting, card, depth)
    allocator = replay(recording.events, recording.sizes)
    found = recording.instants(allocator.granted if card.cuda else None)
    top = max(found, key=lambda row: row.allocated_bytes)
    return Traced(
        allocated_bytes=top.allocated_bytes,
        reserved_bytes=allocator.peak_reserved_bytes,
        parts=MappingProxyType(dict(top.parts)),
        instant=top.name.removeprefix("earlier "),
        timeline=_last(found),
        trained_parameters=trained,
        layers_traced=layers,
        seconds=time.perf_counter() - begin,
    )


def _last(found: Sequence[Instant]) -> tuple[Instant, ...]:
    """Return the largest moment of each phase of the last step; PPO goes through some of them twice."""
    kept: dict[str, Instant] = {}
    for row in found:
        if row.name in _PHASES and row.allocated_bytes >= getattr(kept.get(row.name), "allocated_bytes", 0):
            kept[row.name] = row
    return tuple(kept.values())


def _recorded(values: dict[str, Any], setting: Setting, card: Card, depth: str) -> tuple[Recording, int, int]:
    """Return the recording of the whole model, how many weights train, and how many layers really ran."""
    whole = configured(values)
    layers = whole.num_hidden_layers
    # A loop's temporaries live one weight after another; stretched, they would live together.
    alike = not is_loop(setting.optimizer, cuda=card.cuda) and setting.layers_trained is None
    if depth != "full" and alike and layers > (TRACED if depth == "short" else _SHORT_FROM):
        few, trained = record(configured(values, TRACED), setting, card)
        more = stretched(few, layers)
        if more is not None:
            return more, trained.total() + (layers - TRACED) * trained[MIDDLE], TRACED
    recording, trained = record(whole, setting, card)
    return recording, trained.total(), layers


def record(config: Any, setting: Setting, card: Card, device: str = "meta") -> tuple[Recording, Counter[int]]:
    """Return what a run of the steps allocates, and how many weights train in each layer (-1: in none).

    Args:
        config: transformers config.
        setting: what is trained, and how.
        card: where.
        device: ``meta``, or ``cpu`` for real tensors.
    """
    ledger = Ledger(config.vocab_size, rounding_bytes=card.rounding_bytes, cuda=card.cuda, device=device)
    ledger.mark("load")
    if setting.other_weights:
        ledger.hold(setting.other_weights * setting.weight_width, "other models")
    if setting.method == "ppo":
        names = ppo.run(config, setting, card, ledger, device)
    else:
        model = built(config, setting, ledger, device)
        reference = None
        if setting.reference == "copy":
            reference = built(config, setting, ledger, device).requires_grad_(requires_grad=False).eval()
        run(trainer(model, reference, setting, card, ledger, device))
        names = model.named_parameters()
    trained: Counter[int] = Counter()
    for name, row in names:
        found = LAYER.search(name)
        # PPO's roles take turns: between them, what trains is switched off
        trains = row.requires_grad or setting.method == "ppo"
        trained[int(found[1]) if found else -1] += row.numel() if trains else 0
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what libraries say of a model without weights, and leave their levels as they were."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers.logging.set_verbosity(level)


def _check(setting: Setting) -> None:
    if setting.method not in _METHODS:
        raise SpecError(
            f"method '{setting.method}' cannot be traced.{nearest(setting.method, _METHODS)}",
            f"Choose from: {', '.join(_METHODS)}; or use engine='closed'.",
        )
    if setting.loss.kind in _OTHER_LOSSES or setting.compiled or setting.fused_qkv:
        raise SpecError(
            "losses, compiled graphs and fused matrices of torchtune and litgpt cannot be traced.",
            "Use engine='closed'.",
        )
    if setting.fused_lora:
        raise SpecError(
            "Unsloth's projections with LoRA in one function cannot be traced.", "Use engine='closed'."
        )
    if setting.quantization is not None and setting.adapter is None:
        raise SpecError("A quantized base is not trained itself.", "Give an adapter, or no quantization.")
    if setting.method in ("dpo", "ipo") and not setting.reference:
        raise SpecError("DPO needs a reference.", "Give reference='adapter', 'copy' or 'precomputed'.")
