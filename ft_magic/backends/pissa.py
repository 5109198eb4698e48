"""PiSSA: LoRA matrices that start as the strongest directions of a weight (Meng et al. 2024, arXiv 2404.02948).

The paper takes the starting product out of the base weight. Here it is taken out of the adapter instead: a layer
gives ``W x + s (B A - B0 A0) x`` with ``B0 A0`` frozen, which is the same function of the same trained matrices. So
the base is never touched, the adapter switched off is the original model (the reference of DPO and its kin), nothing
is rounded into 16-bit weights, a resumed run needs no second decomposition, and the result is, by putting the
matrices side by side, a LoRA adapter of twice the rank for the original base. Imported in the worker alone.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora.layer import Linear
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass
class PissaConfig(LoraConfig):  # type: ignore[misc]  # PEFT's classes are untyped
    """LoRA's configuration, with the layer below in place of PEFT's."""

    def __post_init__(self) -> None:
        """Tell PEFT which layer to put around each target."""
        super().__post_init__()
        self._register_custom_module({nn.Linear: PissaLinear, Conv1D: PissaLinear})


class PissaLinear(Linear):  # type: ignore[misc]  # PEFT's classes are untyped
    """A linear layer with LoRA matrices of which the frozen starting product is subtracted."""

    def __init__(self, base_layer: Any, adapter_name: str, config: Any, **kwargs: Any) -> None:
        # Where Linear.__init__ asks for the decomposition, modules cannot be set yet: they are kept here first.
        object.__setattr__(self, "_starts", {})
        conv1d = isinstance(base_layer, Conv1D)
        if conv1d:
            config.fan_in_fan_out = True
        super().__init__(base_layer, adapter_name, config, is_target_conv_1d_layer=conv1d, **kwargs)
        self.lora_start_A = BufferDict(
            {name: start[0] for name, start in self._starts.items()}, persistent=True
        )
        self.lora_start_B = BufferDict(
            {name: start[1] for name, start in self._starts.items()}, persistent=True
        )

    def pissa_init(self, adapter_name: str, init_lora_weights: str) -> None:
        """Let PEFT decompose the weight, then give the base its weight back."""
        base = self.get_base_layer()
        original = base.weight.data
        super().pissa_init(adapter_name, init_lora_weights)
        base.weight.data = original
        first, second = self.lora_A[adapter_name].weight, self.lora_B[adapter_name].weight
        self._starts[adapter_name] = (first.detach().clone(), second.detach().clone())
        if hasattr(self, "lora_start_A"):  # an adapter added to a layer that has one
            self.lora_start_A[adapter_name], self.lora_start_B[adapter_name] = self._starts[adapter_name]

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return what the adapter adds to the weight, in its own layout."""
        first, second = self.lora_start_A[adapter], self.lora_start_B[adapter]
        start = (second @ first) * self.scaling[adapter]
        return super().get_delta_weight(adapter) - (start.T if self.fan_in_fan_out else start)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the layer's output with the adapter's change: (..., out features)."""
        result: torch.Tensor = super().forward(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if name in self.lora_start_A:
                first, second = self.lora_start_A[name], self.lora_start_B[name]
                start = nn.functional.linear(nn.functional.linear(x.to(first.dtype), first), second)
                result = result - (start * self.scaling[name]).to(result.dtype)
        return result


def save_as_lora(model: Any, folder: Path) -> None:
    """Write a PEFT model's PiSSA adapter as a plain LoRA adapter of twice the rank for the original base."""
    state = get_peft_model_state_dict(model)
    plain = {}
    for name, value in state.items():
        if ".lora_start_" in name:
            continue
        if ".lora_A." in name:
            start = state[name.replace(".lora_A.weight", ".lora_start_A")]
            plain[name] = torch.cat([value, start])
        elif ".lora_B." in name:
            start = state[name.replace(".lora_B.weight", ".lora_start_B")]
            plain[name] = torch.cat([value, -start], dim=1)
        else:
            plain[name] = value.contiguous()
    trained = model.peft_config[model.active_adapter]
    config = LoraConfig(**{field: copy(getattr(trained, field)) for field in LoraConfig.__dataclass_fields__})
    # Twice the rank at the same scale, alpha / r.
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    config.init_lora_weights, config.inference_mode = True, True
    folder.mkdir(parents=True, exist_ok=True)
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
