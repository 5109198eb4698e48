"""``ft.estimate_memory``: what a training step needs, asked in the words of a spec, or of a published measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from ft_magic.axes import find_method, find_update
from ft_magic.errors import ModelError, SpecError, nearest
from ft_magic.memory.cards import CARDS, Card, find_card
from ft_magic.memory.memory import Memory
from ft_magic.memory.optimizers import OPTIMIZERS
from ft_magic.memory.records import assumptions, read_metric, read_model, read_setting
from ft_magic.memory.setting import (
    EVERY_LINEAR,
    LOSS_KINDS,
    LOSS_NAMES,
    NF4_DOUBLE_BITS,
    Adapter,
    Loss,
    Quantization,
    Setting,
    kind_of,
)
from ft_magic.memory.step import peak
from ft_magic.memory.trainers import BACKENDS, reference_of, usual_loss
from ft_magic.models import read_config
from ft_magic.models.architecture import Architecture, architecture
from ft_magic.spec import Spec

__all__ = [
    "CHECKPOINTING",
    "ENGINES",
    "OPTIMIZERS",
    "card_named",
    "estimate_memory",
    "read_architecture",
    "setting",
    "with_changes",
]
ENGINES = ("closed", "trace")
# Keys of a spec that decide memory; and short names people type.
_SPEC_KEYS = (
    "method", "update", "max_length", "micro_batch_size", "lora_r", "lora_dropout", "gradient_checkpointing", "optim",
    "precision", "num_virtual_tokens", "trainable_layers", "max_completion_length",
)  # fmt: skip
_ALIASES = {
    "length": "max_length",
    "batch": "micro_batch_size",
    "micro_batch": "micro_batch_size",
    "card": "gpu",
}
CHECKPOINTING = ("none", "layers", "offloaded")


def estimate_memory(
    model: object = None,
    *,
    record: Mapping[str, Any] | None = None,
    engine: str = "closed",
    gpu: str | None = None,
    metric: str = "device",
    **asked: Any,
) -> Memory:
    """Return the peak memory of a training step in bytes, by part.

    Args:
        model: a ``Spec``, or ``demo``, a hub id (its config.json alone is fetched), a folder, a config
            file or a config as a dict.
        record: instead, a published measurement with its settings; the peak is in the metric it names.
        engine: ``closed`` (arithmetic, from config.json alone) or ``trace`` (the installed libraries' own step).
        gpu: the card, such as ``T4`` or ``A100-80``: decides the runtime's share.
        metric: what ``peak_bytes`` is: ``allocated``, ``reserved`` or ``device``.
        **asked: settings, see ``setting``; ``length``, ``batch`` and ``card`` are understood too.

    Raises:
        SpecError: an argument that means nothing.
        ModelError: no readable config.
    """
    if engine not in ENGINES:
        raise SpecError(f"engine '{engine}' is none.", f"Choose one of: {', '.join(ENGINES)}.")
    if record is not None:
        return _of_record(record, engine)
    if isinstance(model, Spec):
        asked = {key: getattr(model, key) for key in _SPEC_KEYS if getattr(model, key) is not None} | asked
        asked["precision"] = {"auto": "bf16"}.get(str(asked["precision"]), asked["precision"])
        model = model.model
    if model is None:
        raise SpecError("estimate_memory needs a model or a record.", "Write model='demo', or record=row.")
    named = {_ALIASES.get(key, key): value for key, value in asked.items()}
    card = card_named(named.pop("gpu", gpu))
    unknown = [key for key in named if key not in signature(setting).parameters]
    if unknown:
        known = list(signature(setting).parameters)
        raise SpecError(
            f"estimate_memory knows no '{unknown[0]}'.{nearest(unknown[0], known)}",
            f"Choose from: {', '.join(known)}.",
        )
    if engine == "trace":
        return _traced(model, named, card, metric)
    return peak(read_architecture(model), setting(**named), card, metric)


def _traced(model: object, named: dict[str, Any], card: Card, metric: str) -> Memory:
    """Return the answer of the tracer: in this process if it has torch, else in one of its own."""
    from ft_magic.memory.tracing import process, trace_model

    config, asked = _config(model), setting(**named)
    if process.here():
        return trace_model(config, asked, card, metric)
    asked_again = {**named, "gpu": card.name if card.memory_bytes else None, "metric": metric}
    return process.ask({"model": dict(config), "asked": asked_again})


def _of_record(record: Mapping[str, Any], engine: str) -> Memory:
    if engine == "trace":
        from ft_magic.memory.tracing import process, trace_record

        return trace_record(record) if process.here() else process.ask({"record": dict(record)})
    card = find_card(str(record.get("gpu") or ""))
    found = peak(read_model(record), read_setting(record), card, read_metric(record))
    return replace(found, notes=(*found.notes, *assumptions(record)))


def setting(  # noqa: PLR0913  each is one key of a spec
    *,
    method: str = "sft",
    update: str = "lora",
    max_length: int = 2048,
    micro_batch_size: int = 1,
    lora_r: int = 16,
    target_modules: tuple[str, ...] = EVERY_LINEAR,
    lora_dropout: float = 0.0,
    gradient_checkpointing: bool | str = True,
    optim: str | None = None,
    precision: str = "bf16",
    attention: str = "sdpa",
    loss: str | None = None,
    accumulation: bool = True,
    num_virtual_tokens: int = 20,
    trainable_layers: int | None = None,
    max_completion_length: int | None = None,
    backend: str = "trl",
    generation_batch: int | None = None,
    other_parameters: int = 0,
    modules_to_save: tuple[str, ...] = (),
) -> Setting:
    """Return a training step in the words of a spec.

    Args:
        method: row of the method axis.
        update: row of the update axis.
        max_length: tokens of the longest sequence.
        micro_batch_size: sequences (pairs count once) in a forward pass.
        lora_r: rank.
        target_modules: linear layers with LoRA.
        lora_dropout: share of LoRA's input that is dropped; any but 0 costs a mask.
        gradient_checkpointing: True, False, or ``offloaded`` (``unsloth`` is another name for it).
        optim: name of an optimizer; by default the plan's.
        precision: ``bf16`` or ``fp16`` (autocast), ``fp32``, or ``pure`` (16-bit weights in full fine-tuning).
        attention: ``sdpa``, ``flash`` or ``eager``.
        loss: a kind of ``memory.setting.Loss``, or its name in TRL, Liger or Unsloth (``LOSS_NAMES``); by default what
            the backend does for the method.
        accumulation: whether gradients wait through further micro-batches.
        num_virtual_tokens: of prompt, prefix and p-tuning.
        trainable_layers: top layers that train, of update ``freeze``.
        max_completion_length: tokens of an answer, of methods that answer while they train.
        backend: whose code trains: ``trl``, ``liger`` (TRL with ``use_liger_kernel``) or ``unsloth``.
        generation_batch: answers sampled at once, of such methods; by default the micro-batch, 0 where vLLM samples.
        other_parameters: weights of further models that are held in the same width: a reward model, a teacher.
        modules_to_save: layers trained whole beside an adapter: ``embed_tokens``, ``lm_head``.

    Raises:
        SpecError: a value that means nothing.
    """
    row, chosen = find_update(update), find_method(method)
    full, narrow = row.family == "full", precision != "fp32"
    weight = 4 if not narrow or (full and precision != "pure") else 2
    name = optim or ("paged_adamw_8bit" if row.bits else "adamw_torch_fused")
    if name not in OPTIMIZERS:
        raise SpecError(
            f"optim '{name}' has no memory row.{nearest(name, list(OPTIMIZERS))}",
            f"Choose one of: {', '.join(OPTIMIZERS)}.",
        )
    adapter = None
    if not full:
        adapter = Adapter(
            kind_of(row), lora_r, tuple(target_modules), dropout=lora_dropout > 0, virtual_tokens=num_virtual_tokens,
            saved=tuple(modules_to_save),
        )  # fmt: skip
    if backend not in BACKENDS:
        raise SpecError(f"backend '{backend}' has no memory row.", f"Choose one of: {', '.join(BACKENDS)}.")
    kind = LOSS_NAMES.get(loss or "", loss) or usual_loss(chosen, backend)
    if kind not in LOSS_KINDS:
        words = [*LOSS_KINDS, *LOSS_NAMES]
        raise SpecError(
            f"loss '{kind}' has no memory row.{nearest(kind, words)}", f"Choose one of: {', '.join(words)}."
        )
    checkpointing = {"unsloth": "offloaded"}.get(str(gradient_checkpointing), str(gradient_checkpointing))
    if isinstance(gradient_checkpointing, bool):
        checkpointing = "layers" if gradient_checkpointing else "none"
    if checkpointing not in CHECKPOINTING:
        raise SpecError(
            f"gradient_checkpointing '{checkpointing}' is none.", "Write true, false or offloaded."
        )
    answers = (max_completion_length or 256) if chosen.generates else None
    return Setting(
        micro_batch=micro_batch_size,
        length=max_length,
        answer_length=answers,
        sides=chosen.sides,
        adapter=adapter,
        quantization=Quantization(NF4_DOUBLE_BITS) if row.bits else None,
        weight_width=weight,
        autocast_width=2 if narrow and precision != "pure" else 0,
        optimizer=OPTIMIZERS[name],
        loss=Loss(kind, scaled=False),
        checkpointing=checkpointing,
        attention=attention,
        frozen_copies=int(chosen.reference == "live" and full),
        twins=int(chosen.name == "ppo"),
        accumulates=accumulation,
        generation_batch=(micro_batch_size if generation_batch is None else generation_batch)
        if answers
        else 0,
        method=method,
        reference=reference_of(chosen, full=full),
        other_weights=other_parameters,
        **BACKENDS[backend],
        layers_trained=(trainable_layers or -1) if "trainable_layers" in row.options else None,
    )


def card_named(name: str | None) -> Card:
    """Return a card of the table, or an unknown one where none is named.

    Raises:
        SpecError: the name is in no row.
    """
    found = find_card(name or "")
    if name and not found.memory_bytes:
        raise SpecError(f"Card '{name}' is not in the table.", f"Choose one of: {', '.join(CARDS)}.")
    return found


def read_architecture(model: object) -> Architecture:
    """Return a model's matrices from its config alone.

    Raises:
        ModelError: no readable config.
    """
    if isinstance(model, Architecture):
        return model
    return architecture(_config(model))


def _config(model: object) -> Mapping[str, Any]:
    """Return what a model's ``config.json`` says.

    Raises:
        SpecError: only its sizes are known.
        ModelError: no readable config.
    """
    if isinstance(model, Architecture):
        raise SpecError(
            "the tracer needs a model's config.", "Give a folder, a hub id, or the config as a dict."
        )
    if isinstance(model, Mapping):
        return model
    place = Path(str(model)).expanduser()
    return read_config(place if place.exists() else _fetched(str(model)))


def _fetched(name: str) -> Path:
    """Return the config of the bundled model, or of a hub id without its weights."""
    from ft_magic.models.reference import DEMO, HUB_ID, resolve

    if name == DEMO or not HUB_ID.fullmatch(name):
        return resolve(name) / "config.json"
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:
        raise ModelError(
            f"The config.json of '{name}' could not be fetched: {error}.",
            "Give a folder, or the config as a dict.",
        ) from error


def with_changes(base: Setting, **changes: Any) -> Setting:
    """Return a setting with some fields changed; ``rank`` changes the adapter's."""
    rank = changes.pop("rank", None)
    if rank is not None and base.adapter is not None:
        changes["adapter"] = replace(base.adapter, rank=rank, values=None)
    return replace(base, **changes)
