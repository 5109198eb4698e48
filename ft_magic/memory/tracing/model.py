"""The installed model class from its config, without weights, with its adapter. Imported in the worker alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from ft_magic.errors import ModelError, SpecError
from ft_magic.memory.setting import Quantization, Setting
from ft_magic.memory.tracing.experts import unpack
from ft_magic.memory.tracing.fused import fuse
from ft_magic.memory.tracing.ledger import LAYER, Ledger
from ft_magic.memory.tracing.offloading import offloaded
from ft_magic.memory.tracing.quantized import KINDS, Linear4bit, quantize
from ft_magic.memory.tracing.targets import adapter_config
from ft_magic.models import read_config

_HALF = (torch.float16, torch.bfloat16)
_FP32_BYTES = 4


def read(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return what ``config.json`` says of the language model (of one that also sees or hears: its text part)."""
    values = dict(config) if isinstance(config, Mapping) else read_config(Path(config))
    inner = values.get("text_config")
    if isinstance(inner, dict) and "model_type" in inner:
        values = inner
    values.pop("quantization_config", None)
    return {key: value for key, value in values.items() if value is not None or key == "sliding_window"}


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


def built(config: Any, setting: Setting, ledger: Ledger, device: str = "meta") -> torch.nn.Module:
    """Return the model as a trainer prepares it: quantized, with its adapter, checkpointing switched on.

    Raises:
        SpecError: its experts cannot be quantized, or its adapter not be made.
    """
    model = _plain(config, setting, device)
    if not setting.packed_experts:
        unpack(model)
    fuse(model, norms=setting.fused_norms, gates=setting.fused_mlp)
    if setting.quantization is not None:
        _refuse(model, setting.quantization)
        quantize(model, ledger, setting.quantization)
    _load(model, ledger, setting.weight_width)
    if setting.adapter is not None:
        model.requires_grad_(requires_grad=False)
        with ledger, ledger.tagged("adapter"):
            if setting.quantization is not None:
                _upcast(model, setting.quantization, ledger)
            task = "SEQ_CLS" if setting.method == "reward" else "CAUSAL_LM"
            model = peft.get_peft_model(
                model,
                adapter_config(model, setting.adapter, task),
                autocast_adapter_dtype=setting.adapter.width == _FP32_BYTES,
            )
            for _ in range(setting.adapter.sets):
                ledger.hold(sum(row.nbytes for row in model.parameters() if row.requires_grad), "adapter")
    elif setting.layers_trained is not None:
        _freeze(model, config.num_hidden_layers, setting.layers_trained)
    if setting.checkpointing != "none":
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": setting.reentrant}
        )
        if setting.adapter is not None:
            model.enable_input_require_grads()
    checkpoint(model, setting)
    return model.train()


def _plain(config: Any, setting: Setting, device: str) -> torch.nn.Module:
    scored = setting.method == "reward"
    auto = transformers.AutoModelForSequenceClassification if scored else transformers.AutoModelForCausalLM
    if scored:
        config.num_labels, config.pad_token_id = 1, config.pad_token_id or 0
    attention = "eager" if setting.attention == "eager" else "sdpa"
    weights = torch.float32 if setting.weight_width == _FP32_BYTES else torch.bfloat16
    try:
        with torch.device(device):
            model = auto.from_config(config, attn_implementation=attention, dtype=weights)
    except ValueError as error:
        raise ModelError(
            f"The installed transformers cannot build a '{config.model_type}' language model: {error}",
            "Use engine='closed'.",
        ) from error
    model.config.use_cache = False
    return model


def _refuse(model: torch.nn.Module, kind: Quantization) -> None:
    """Refuse what no stand-in covers."""
    if kind.bits not in KINDS or kind.targets_only:
        raise SpecError(
            f"{kind.weight_bits:g}-bit weights of this kind cannot be traced.",
            "NF4 and GPTQ can; or use engine='closed'.",
        )
    if any(hasattr(module, "gate_up_proj") and module.gate_up_proj.__class__ is torch.nn.Parameter
           for module in model.modules()):  # fmt: skip
        raise SpecError(
            "quantized experts cannot be traced: transformers 5 holds all experts of a layer in one tensor, which "
            "bitsandbytes leaves as it is.",
            "Use engine='closed', or update=lora.",
        )


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


def _upcast(model: torch.nn.Module, kind: Quantization, ledger: Ledger) -> None:
    """Cast what is not quantized to fp32, as PEFT's kbit preparation does; its newer versions then empty the cache."""
    with ledger.tagged("weights"):
        for name, row in model.named_parameters():
            width = kind.norm_width if "norm" in name or ".ln_" in name else kind.rest_width
            if row.dtype in _HALF and width == _FP32_BYTES:
                row.data = row.data.float()
    if "auto_clear_cache" in inspect.signature(peft.prepare_model_for_kbit_training).parameters:
        ledger.empty_cache()


def _freeze(model: torch.nn.Module, layers: int, trained: int) -> None:
    """Let the top layers train alone; -1 = a quarter of them."""
    count = -(-layers // 4) if trained < 0 else trained
    model.requires_grad_(requires_grad=False)
    for name, row in model.named_parameters():
        found = LAYER.search(name)
        row.requires_grad_(found is not None and int(found[1]) >= layers - count)


def checkpoint(model: torch.nn.Module, setting: Setting) -> None:
    """Put offloading checkpoints in place, where the setting wants them; switching checkpointing on removes them."""
    if setting.checkpointing != "offloaded":
        return
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = offloaded  # noqa: SLF001 - how transformers sets it
