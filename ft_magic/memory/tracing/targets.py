"""An adapter of a ``Setting`` as the configuration PEFT reads. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peft
from torch import nn

from ft_magic.errors import SpecError
from ft_magic.memory.setting import EVERY_LINEAR, Adapter

# The projections' names in architectures that fuse or rename them; the first that the model has counts.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("q_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "q_b_proj"),
    "k_proj": ("k_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "kv_b_proj"),
    "v_proj": ("v_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "kv_b_proj"),
    "o_proj": ("o_proj", "attention.dense", "self_attn.dense", "out_proj", "attn.c_proj"),
    "gate_proj": ("gate_proj", "gate_up_proj"),
    "up_proj": ("up_proj", "gate_up_proj", "dense_h_to_4h", "fc1", "c_fc"),
    "down_proj": ("down_proj", "dense_4h_to_h", "fc2", "mlp.c_proj"),
}
# What PEFT reads from the model itself: a shallower model has another number of layers.
_INFERRED = ("num_layers", "num_attention_heads", "num_transformer_submodules", "token_dim")
_DROPOUT = 0.05  # any but 0 costs the same mask


def adapter_config(model: nn.Module, adapter: Adapter, task: str) -> Any:
    """Return PEFT's configuration of an adapter.

    Raises:
        SpecError: no installed PEFT class makes this kind of adapter.
    """
    given = {key: value for key, value in adapter.options.items() if key not in _INFERRED}
    if adapter.kind in ("lora", "dora"):
        return peft.LoraConfig(
            task_type=task,
            r=adapter.rank,
            lora_alpha=adapter.rank,
            lora_dropout=_DROPOUT if adapter.dropout else 0.0,
            target_modules=targets(model, adapter),
            use_dora=adapter.kind == "dora",
            modules_to_save=list(adapter.saved) or None,
        )
    if adapter.kind == "bottleneck":
        # Not at the top: backends stand above memory, and this is the one adapter of our own.
        from ft_magic.backends.bottleneck import BottleneckConfig

        return BottleneckConfig(task_type=task)
    if adapter.kind not in _CLASSES:
        raise SpecError(f"adapter '{adapter.kind}' cannot be traced.", "Use engine='closed'.")
    if adapter.kind == "vera":
        given = {"r": adapter.rank, "target_modules": targets(model, adapter), **given}
    if adapter.kind in ("prompt", "prefix", "ptuning"):
        given = {"num_virtual_tokens": adapter.virtual_tokens, **given}
    return _CLASSES[adapter.kind](task_type=task, **given)


_CLASSES: Mapping[str, Any] = {
    "ia3": peft.IA3Config,
    "vera": peft.VeraConfig,
    "prompt": peft.PromptTuningConfig,
    "prefix": peft.PrefixTuningConfig,
    "ptuning": peft.PromptEncoderConfig,
    "norms": peft.LNTuningConfig,
    "tokens": peft.TrainableTokensConfig,
}


def targets(model: nn.Module, adapter: Adapter) -> list[str] | str:
    """Return the model's own names of the layers an adapter stands beside.

    Raises:
        SpecError: the model has none of them.
    """
    if set(EVERY_LINEAR) <= set(adapter.targets) and not adapter.head:
        return "all-linear"
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = {
        own
        for asked in adapter.targets
        if (own := next((name for name in _NAMES.get(asked, (asked,)) if _ends(linear, name)), None))
    }
    if adapter.head:
        found.add("lm_head")
    if not found:
        raise SpecError(
            f"This model has no layer named {', '.join(adapter.targets)}.",
            f"Choose target_modules from: {', '.join(sorted({name.rpartition('.')[2] for name in linear}))}.",
        )
    return sorted(found)


def _ends(names: list[str], wanted: str) -> bool:
    return any(name == wanted or name.endswith(f".{wanted}") for name in names)
