"""Linear layers in 4 bits without their weights: storage and working space of bitsandbytes and GPTQ. Worker only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ft_magic.memory.setting import GPTQ_BITS, NF4_BITS, NF4_DOUBLE_BITS, Quantization
from ft_magic.memory.tracing.ledger import Ledger

_VALUES_A_BYTE = 2  # 4 bits a weight
_BLOCK = 64  # weights a scale belongs to in NF4
_SCALES_A_BLOCK = 256  # scales that share an fp32 scale under double quantization
_GROUP = 128  # input rows that share a scale in GPTQ
_VALUES_AN_INT = 8  # 4-bit values in an int32
# What transformers leaves unquantized beside embeddings and norms, which are no linear layers; and what MoE models
# route with.
_PLAIN = ("lm_head", "score", "embed_out", "router", "shared_expert_gate")
KINDS = (NF4_BITS, NF4_DOUBLE_BITS, GPTQ_BITS)


class Dequantized(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """A product with a weight that exists in 16 bit only while it is multiplied, forward and backward."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, layer: Linear4bit) -> torch.Tensor:
        """Return the product; saves the layer, and the input where bitsandbytes did."""
        ctx.layer = layer
        if layer.keeps_input:
            ctx.save_for_backward(values)
        return nn.functional.linear(values, layer.whole(values.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Return the gradient of the values; the weight is dequantized again."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - autocast is off in a real backward pass
            return torch.matmul(grads[0], ctx.layer.whole(grads[0].dtype)), None


class Linear4bit(nn.Linear):  # type: ignore[misc]  # torch is untyped here
    """Stand-in for ``bitsandbytes.nn.Linear4bit`` and GPTQ's ``QuantLinear``: 4 bits a weight, and constants.

    A 16-bit copy of the weight exists while it is used. bitsandbytes returns the result in the type of its input;
    GPTQ's kernels in 16 bit.
    """

    def __init__(self, layer: nn.Linear, kind: Quantization, ledger: Ledger) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.weight.dtype
        self.bias = layer.bias
        self.keeps_input = kind.keeps_input
        self._keeps_width = kind.keeps_width
        self._ledger = ledger
        count = layer.weight.numel()
        self.weight = nn.Parameter(
            _empty(-(-count // _VALUES_A_BYTE), torch.uint8).view(-1, 1), requires_grad=False
        )
        constants = _gptq if kind.bits == GPTQ_BITS else _nf4
        for number, row in enumerate(constants(self, double=kind.bits == NF4_DOUBLE_BITS)):
            self.register_buffer(f"constant_{number}", row)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the product, computed in 16 bit."""
        result = Dequantized.apply(values.to(self.compute_dtype), self)
        return result.to(values.dtype) if self._keeps_width else result

    def whole(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the dequantized weight in ``dtype``."""
        with self._ledger.tagged("dequantized weights"):
            return torch.empty(
                (self.out_features, self.in_features), dtype=self.compute_dtype, device="meta"
            ).to(dtype)


def _nf4(layer: Linear4bit, *, double: bool) -> list[torch.Tensor]:
    """Scales of blocks of weights; doubled, in 8 bits with scales of their own (arXiv 2305.14314)."""
    scales = -(-layer.in_features * layer.out_features // _BLOCK)
    if not double:
        return [_empty(scales, torch.float32)]
    return [_empty(scales, torch.uint8), _empty(-(-scales // _SCALES_A_BLOCK), torch.float32)]


def _gptq(layer: Linear4bit, *, double: bool) -> list[torch.Tensor]:
    """16-bit scales and packed zeros of groups of rows, and each row's group (AutoGPTQ's ``QuantLinear``)."""
    del double
    groups = -(-layer.in_features // _GROUP)
    return [
        _empty(groups * layer.out_features, torch.float16),
        _empty(groups * layer.out_features // _VALUES_AN_INT, torch.int32),
        _empty(layer.in_features, torch.int32),
    ]


def quantize(model: nn.Module, ledger: Ledger, kind: Quantization) -> None:
    """Put every linear layer but head and router in 4 bits."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            routes = name == "gate" and not hasattr(module, "up_proj")
            if isinstance(layer, nn.Linear) and name not in _PLAIN and not routes:
                setattr(module, name, Linear4bit(layer, kind, ledger))


def _empty(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(count, dtype=dtype, device="meta")
