"""TRL's loss code with stand-ins in the places of its Triton kernel. Imported in the worker alone.

On a GPU, TRL (from 1.14) takes log-probabilities and entropies of the chosen tokens by one kernel
(``trl/kernels/logprob_entropy.py``); elsewhere, and before, by torch's own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


class _LogProbs(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Keeps the logits and two fp32 numbers a row; writes the logits' gradient, as large as they are, at once."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, entropy, sums, expected = (
            logits.new_empty(logits.shape[:-1], dtype=torch.float32) for _ in range(4)
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, sums, expected)
        return found, entropy

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        return torch.empty_like(ctx.saved_tensors[0], memory_format=torch.contiguous_format)


def _both(logits: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found, entropy = _LogProbs.apply(logits)
    return found, entropy.detach()


def log_probs(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Return the log-probabilities the kernel makes of logits, of their shape without the vocabulary."""
    return _both(logits)[0]


def with_kernels(function: Callable[..., Any], *, kernel: bool) -> Callable[..., Any]:
    """Return a function of TRL's as a GPU would run it; the library's own stays as it is.

    Args:
        function: what names ``selective_log_softmax`` or ``selective_log_softmax_and_entropy``.
        kernel: whether the Triton kernel runs.
    """
    if not kernel:
        return function
    assert isinstance(function, FunctionType)
    names = {"selective_log_softmax": log_probs, "selective_log_softmax_and_entropy": _both}
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
