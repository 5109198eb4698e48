"""Stand-ins for Triton's norms and gated products: they allocate what those kernels allocate. Worker only.

Sources: Liger-Kernel's ``ops/rms_norm.py`` and ``ops/swiglu.py``, Unsloth's ``kernels/rms_layernorm.py``; both write
the gradient of the input over the gradient that comes in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Norm(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """RMSNorm in one kernel: keeps its input and one fp32 number a row."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = values.new_empty(values.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(values, rows, weight)
        return torch.empty_like(values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        weight = ctx.saved_tensors[2]
        return grads[0], torch.empty_like(weight) if ctx.needs_input_grad[1] else None


class FusedNorm(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """An RMSNorm of one kernel, with the weight of the norm it stands for."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the normed values, in their own type."""
        return _Norm.apply(values, self.weight)


class _Gate(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Activation and product in one kernel: keeps both inputs and writes their gradients over them."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(up)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return gate.detach(), up.detach()


class FusedGate(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A gated feed-forward part whose activation and product are one kernel; the linear layers are the model's."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the feed-forward part's output."""
        return self.down_proj(_Gate.apply(self.gate_proj(values), self.up_proj(values)))


def fuse(model: nn.Module, *, norms: bool, gates: bool) -> None:
    """Put fused kernels in the places of a model's RMSNorms and gated products."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            kind = type(child).__name__
            if norms and kind.endswith("RMSNorm") and getattr(child, "weight", None) is not None:
                setattr(module, name, FusedNorm(child))
            elif gates and kind.endswith("MLP") and hasattr(child, "gate_proj"):
                setattr(module, name, FusedGate(child))
