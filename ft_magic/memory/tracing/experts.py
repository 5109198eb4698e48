"""Experts as transformers before 5 held them: a layer each, run one after the other. Worker only."""

from __future__ import annotations

import torch
from torch import nn


class Expert(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """One gated feed-forward part."""

    def __init__(self, hidden: int, inner: int, like: torch.Tensor, activation: nn.Module) -> None:
        super().__init__()
        made = {"bias": False, "dtype": like.dtype, "device": like.device}
        self.gate_proj, self.up_proj = (nn.Linear(hidden, inner, **made) for _ in range(2))
        self.down_proj = nn.Linear(inner, hidden, **made)
        self.activation = activation

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the expert's output."""
        return self.down_proj(self.activation(self.gate_proj(values)) * self.up_proj(values))


class Experts(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """All experts of a layer; tokens spread evenly (``modeling_mixtral.py`` of transformers 4)."""

    def __init__(self, packed: nn.Module) -> None:
        super().__init__()
        count, hidden, inner = packed.down_proj.shape
        self.each = nn.ModuleList(
            Expert(hidden, inner, packed.down_proj, packed.act_fn) for _ in range(count)
        )

    def forward(self, values: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the sum of the chosen experts' outputs, ``(tokens, hidden)``."""
        total = torch.zeros_like(values)
        share = -(-chosen.numel() // len(self.each))
        for expert in self.each:
            rows = chosen.new_empty(share)
            found = expert(values[rows]) * weights.flatten()[rows, None]
            total.index_add_(0, rows, found.to(total.dtype))
        return total


def unpack(model: nn.Module) -> None:
    """Put a layer for each expert in the place of the tensors that hold all of them."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("Experts") and hasattr(child, "gate_up_proj"):
                setattr(module, name, Experts(child))
