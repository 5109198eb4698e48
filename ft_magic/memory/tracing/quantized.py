"""A linear layer in NF4 without its weights: bitsandbytes' storage and working space. Imported in the worker alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ft_magic.memory.tracing.ledger import Ledger

_VALUES_A_BYTE = 2  # 4 bits a weight
_BLOCK = 64  # weights a scale belongs to
_SCALES_A_BLOCK = 256  # scales that share an fp32 scale under double quantization
# What transformers leaves unquantized beside embeddings and norms, which are no linear layers.
_HEADS = ("lm_head", "score")


class Dequantized(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """A product with a weight that exists in 16 bit only while it is multiplied, forward and backward."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, layer: Linear4bit) -> torch.Tensor:
        """Return the product; saves the layer, no tensor."""
        ctx.layer = layer
        return nn.functional.linear(values, layer.whole(values.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Return the gradient of the values; the weight is dequantized again."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - autocast is off in a real backward pass
            return torch.matmul(grads[0], ctx.layer.whole(grads[0].dtype)), None


class Linear4bit(nn.Linear):  # type: ignore[misc]  # torch is untyped here
    """Stand-in for ``bitsandbytes.nn.Linear4bit``: 4 bits a weight, scales, and a 16-bit copy while in use."""

    def __init__(self, layer: nn.Linear, *, double: bool, ledger: Ledger) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.weight.dtype
        self.bias = layer.bias
        count = layer.weight.numel()
        self.weight = nn.Parameter(
            _empty(-(-count // _VALUES_A_BYTE), torch.uint8).view(-1, 1), requires_grad=False
        )
        scales = -(-count // _BLOCK)
        self.register_buffer("absmax", _empty(scales, torch.uint8 if double else torch.float32))
        if double:
            self.register_buffer("nested_absmax", _empty(-(-scales // _SCALES_A_BLOCK), torch.float32))
        self._ledger = ledger

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the product in the type of ``values``, computed in 16 bit."""
        return Dequantized.apply(values.to(self.compute_dtype), self).to(values.dtype)

    def whole(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the dequantized weight in ``dtype``."""
        with self._ledger.tagged("dequantized weights"):
            return torch.empty(
                (self.out_features, self.in_features), dtype=self.compute_dtype, device="meta"
            ).to(dtype)


def quantize(model: nn.Module, ledger: Ledger, *, double: bool) -> None:
    """Put every linear layer but the head in NF4."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear) and name not in _HEADS:
                setattr(module, name, Linear4bit(layer, double=double, ledger=ledger))


def _empty(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(count, dtype=dtype, device="meta")
