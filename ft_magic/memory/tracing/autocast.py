"""Autocast for meta tensors, which torch has none for. Imported in the worker alone.

The lists are torch's own (aten/src/ATen/autocast_mode.h): matrix products run in the low type, sums of many numbers
in fp32. A trained fp32 weight is cast once and its copy kept until the forward pass ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils._pytree import tree_map

_LOW = frozenset(
    {
        torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.Tensor.matmul,
        torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.mm, torch.Tensor.bmm,
        functional.linear, functional.conv1d, functional.scaled_dot_product_attention,
    }
)  # fmt: skip
_FLOAT = frozenset(
    {
        torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.rsqrt, torch.Tensor.rsqrt, torch.exp,
        torch.Tensor.exp, torch.log, torch.Tensor.log, torch.logsumexp, torch.Tensor.logsumexp, torch.cumsum,
        functional.cross_entropy, functional.nll_loss, functional.log_softmax, functional.layer_norm,
        functional.softplus,
    }
)  # fmt: skip


class Autocast:
    """The state of autocast: ``dtype`` is the low type, None where autocast is off."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self._on = False
        self._keeps = False
        self._copies: dict[int, torch.Tensor] = {}

    @contextmanager
    def active(self, *, keeps: bool) -> Iterator[None]:
        """Cast inside; ``keeps`` = keep copies of trained weights until the end, as one autocast region does."""
        if self.dtype is None:
            yield
            return
        before, nested, kept = torch.is_autocast_enabled("cuda"), self._on, self._keeps
        torch.set_autocast_enabled("cuda", True)  # libraries ask; it has no effect on meta tensors
        self._on, self._keeps = True, keeps
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", before)
            self._on = nested
            self._keeps = kept
            if not nested:
                self._copies.clear()

    def cast(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments in the type autocast runs ``func`` in."""
        if not self._on or (func not in _LOW and func not in _FLOAT):
            return args, kwargs
        dtype = self.dtype if func in _LOW else torch.float32
        return tree_map(lambda value: self._in(value, dtype), (args, kwargs))  # type: ignore[no-any-return]

    def _in(self, value: Any, dtype: torch.dtype | None) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (self._keeps and value.is_leaf and value.requires_grad and dtype == self.dtype):
            return value.to(dtype)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(dtype)
        return self._copies[id(value)]
