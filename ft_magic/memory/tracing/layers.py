"""Where one decoder layer ends and the next begins, forward and backward. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ft_magic.memory.tracing.ledger import STACKS, Ledger


class Edge(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Passes values on unchanged and tells when they, and later their gradient, come by."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, going: Callable[[], None] | None, coming: Callable[[], None] | None
    ) -> torch.Tensor:
        """Return a view of the values."""
        ctx.coming = coming
        if going is not None:
            going()
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Return the gradient as it came."""
        if ctx.coming is not None:
            ctx.coming()
        return grads[0], None, None


class Bounded(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A decoder layer that tells the ledger when it runs; everything else is the layer's own."""

    def __init__(self, layer: nn.Module, ledger: Ledger, number: int, count: int) -> None:
        super().__init__()
        self.layer = layer
        self._tell = (
            lambda: ledger.enter(number),
            (lambda: ledger.enter(None)) if number == count - 1 else None,
            (lambda: ledger.enter(None)) if number == 0 else None,
        )

    def __getattr__(self, name: str) -> Any:
        """Return the layer's own attribute where this module has none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the layer between two edges."""
        enter, leave, done = self._tell
        result = self.layer(Edge.apply(values, enter, done), *args, **kwargs)
        if isinstance(result, tuple):
            return (Edge.apply(result[0], leave, enter), *result[1:])
        return Edge.apply(result, leave, enter)


def bound(model: nn.Module, ledger: Ledger) -> None:
    """Put edges around every decoder layer of a model."""
    for name, stack in list(model.named_modules()):
        if isinstance(stack, nn.ModuleList) and name.rpartition(".")[2] in STACKS:
            for number, layer in enumerate(list(stack)):
                stack[number] = Bounded(layer, ledger, number, len(stack))
