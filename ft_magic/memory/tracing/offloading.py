"""Checkpointing that holds each layer's input in host memory. Imported in the worker alone.

As Unsloth's ``Unsloth_Offloaded_Gradient_Checkpointer`` and TRL's ``activation_offloading`` do: nothing stays on the
device between the passes; the input comes back, whole, for the layer's backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class _Offloaded(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Runs a layer without gradients, and again with them."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], values: torch.Tensor, *rest: Any) -> Any:
        ctx.run, ctx.rest = run, rest
        ctx.like = (values.shape, values.dtype, values.device)
        with torch.no_grad():
            return run(values, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        shape, dtype, device = ctx.like
        values = torch.empty(shape, dtype=dtype, device=device).requires_grad_()
        with torch.enable_grad():
            result = ctx.run(values, *ctx.rest)
        torch.autograd.backward(result[0] if isinstance(result, tuple) else result, grads[0])
        return None, values.grad, *(None for _ in ctx.rest)


def offloaded(run: Callable[..., Any], values: torch.Tensor, *rest: Any) -> Any:
    """Run a layer so that its input leaves the device: the function transformers' layers call to be recomputed."""
    return _Offloaded.apply(run, values, *rest)
