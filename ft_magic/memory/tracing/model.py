"""The installed model class from its config, without weights, with its adapter. Imported in the worker alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from ft_magic.errors import ModelError
from ft_magic.memory.tracing.ledger import Ledger
from ft_magic.memory.tracing.quantized import Linear4bit, quantize
from ft_magic.memory.tracing.settings import TraceSettings
from ft_magic.models import read_config

_HALF = (torch.float16, torch.bfloat16)


def read(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return what ``config.json`` says of the language model (of one that also sees or hears: its text part)."""
    values = dict(config) if isinstance(config, Mapping) else read_config(Path(config))
    inner = values.get("text_config")
    if isinstance(inner, dict) and "model_type" in inner:
        values = inner
    values.pop("quantization_config", None)
    return values


def configured(values: Mapping[str, Any], layers: int | None = None) -> Any:
    """Return the transformers config, cut down to ``layers`` where given.

    Raises:
        ModelError: the installed transformers does not know the architecture.
    """
    values = dict(values)
    kind = str(values.pop("model_type", ""))
    if layers is not None:
        values["num_hidden_layers"] = layers
        if isinstance(values.get("layer_types"), list):
            values["layer_types"] = values["layer_types"][:layers]
    try:
        return transformers.AutoConfig.for_model(kind, **values)
    except ValueError as error:
        raise ModelError(
            f"The installed transformers {transformers.__version__} does not know the architecture '{kind}'.",
            "Use engine='closed', or install a transformers that knows it.",
        ) from error


def built(config: Any, settings: TraceSettings, ledger: Ledger, device: str = "meta") -> torch.nn.Module:
    """Return the model as a trainer prepares it: quantized, with its adapter, checkpointing switched on."""
    model = _plain(config, settings, device)
    if settings.quantized is not None:
        quantize(model, ledger, double=settings.quantized.double)
    _load(model, ledger, getattr(torch, settings.weights).itemsize)
    if settings.adapter is not None:
        model.requires_grad_(requires_grad=False)
        with ledger, ledger.tagged("adapter"):
            if settings.quantized is not None:
                _upcast(model, settings.quantized.rest, ledger)
            model = _adapted(model, settings)
    if settings.checkpointing is not None:
        kind = {"use_reentrant": settings.checkpointing == "reentrant"}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
        if settings.adapter is not None:
            model.enable_input_require_grads()
    return model.train()


def _plain(config: Any, settings: TraceSettings, device: str) -> torch.nn.Module:
    scored = settings.method == "reward"
    auto = transformers.AutoModelForSequenceClassification if scored else transformers.AutoModelForCausalLM
    if scored:
        config.num_labels, config.pad_token_id = 1, config.pad_token_id or 0
    attention = "eager" if settings.attention == "eager" else "sdpa"
    try:
        with torch.device(device):
            model = auto.from_config(
                config, attn_implementation=attention, dtype=getattr(torch, settings.weights)
            )
    except ValueError as error:
        raise ModelError(
            f"The installed transformers cannot build a '{config.model_type}' language model: {error}",
            "Use engine='closed'.",
        ) from error
    model.config.use_cache = False
    return model


def _load(model: torch.nn.Module, ledger: Ledger, bytes_a_weight: int) -> None:
    """Count the weights in the order they are loaded: what is quantized arrives whole and shrinks on the device."""
    for module in model.modules():
        if not isinstance(module, Linear4bit):
            for row in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                ledger.follow(row, "weights")
            continue
        whole = ledger.hold(module.in_features * module.out_features * bytes_a_weight, "weights")
        ledger.follow(module.weight, "weights")
        for buffer in module.buffers():
            ledger.follow(buffer, "quantization constants")
        ledger.drop(whole)
        if module.bias is not None:
            ledger.follow(module.bias, "weights")


def _upcast(model: torch.nn.Module, rest: str, ledger: Ledger) -> None:
    """Cast what is not quantized to fp32, as PEFT's kbit preparation does; its newer versions then empty the cache."""
    with ledger.tagged("weights"):
        for name, row in model.named_parameters():
            if row.dtype in _HALF and (rest == "float32" or (rest == "norms" and "norm" in name)):
                row.data = row.data.float()
    if "auto_clear_cache" in inspect.signature(peft.prepare_model_for_kbit_training).parameters:
        ledger.empty_cache()


def _adapted(model: torch.nn.Module, settings: TraceSettings) -> torch.nn.Module:
    adapter = settings.adapter
    assert adapter is not None
    task = "SEQ_CLS" if settings.method == "reward" else "CAUSAL_LM"
    config = getattr(peft, adapter.kind)(**{"task_type": task, **adapter.options})
    return peft.get_peft_model(model, config, autocast_adapter_dtype=adapter.upcast)
