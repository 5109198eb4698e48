"""Bottleneck adapters: small layers behind attention and feed-forward part (Houlsby et al. 2019, arXiv 1902.00751).

PEFT has none, so they are a layer of ours put in place by PEFT's own way for layers it does not know (custom LoRA
modules): adding, switching off, saving and resuming are PEFT's. Imported in the worker alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

# Written into adapter_config.json instead of LORA, so that nothing can read these weights as LoRA matrices.
TYPE = "BOTTLENECK"


@dataclass
class BottleneckConfig(LoraConfig):  # type: ignore[misc]  # PEFT's classes are untyped
    """``r`` is the width of a bottleneck; ``target_modules`` are the layers whose output passes through one."""

    def __post_init__(self) -> None:
        """Tell PEFT which layer to put around each target."""
        super().__post_init__()
        self._register_custom_module({nn.Linear: Bottleneck, Conv1D: Bottleneck})

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it is written to a file."""
        return {
            "peft_type": TYPE,
            "r": self.r,
            "lora_dropout": self.lora_dropout,
            "target_modules": sorted(self.target_modules or ()),
            "modules_to_save": self.modules_to_save,
            "task_type": self.task_type,
            "inference_mode": self.inference_mode,
            "base_model_name_or_path": self.base_model_name_or_path,
        }

    @classmethod
    def read(cls, folder: Path) -> BottleneckConfig:
        """Return the configuration saved in a folder."""
        values = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        del values["peft_type"]
        return cls(**values)


class Bottleneck(nn.Module, LoraLayer):  # type: ignore[misc]  # PEFT's classes are untyped
    """A layer whose output ``h`` becomes ``h + up(gelu(down(h)))``; ``up`` starts as zeros, so nothing changes."""

    # PEFT tells adapter weights by the prefix ``lora_``.
    adapter_layer_names = ("lora_down", "lora_up")
    other_param_names = ("r", "lora_dropout")

    def __init__(self, base_layer: Any, adapter_name: str, config: Any, r: int, **kwargs: Any) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer, **kwargs)
        self.lora_down = nn.ModuleDict({})
        self.lora_up = nn.ModuleDict({})
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, config=config)

    def update_layer(self, adapter_name: str, r: int, *, config: Any, **_: Any) -> None:
        """Add a bottleneck of ``r`` channels under this name."""
        width = self.out_features
        self.r[adapter_name] = r
        self.lora_down[adapter_name] = nn.Linear(width, r)
        self.lora_up[adapter_name] = nn.Linear(r, width)
        self.lora_dropout[adapter_name] = nn.Dropout(config.lora_dropout)
        nn.init.zeros_(self.lora_up[adapter_name].weight)
        nn.init.zeros_(self.lora_up[adapter_name].bias)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the layer's output after its bottlenecks: (..., width)."""
        result: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.lora_down:
                down, up = self.lora_down[name], self.lora_up[name]
                inner = nn.functional.gelu(down(result.to(down.weight.dtype)))
                result = result + up(self.lora_dropout[name](inner)).to(result.dtype)
        return result
