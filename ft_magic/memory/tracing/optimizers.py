"""What optimizers hold and make in passing. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from ft_magic.memory.optimizers import OPTIMIZERS, state_bytes, step_bytes
from ft_magic.memory.setting import Optimizer as Kind
from ft_magic.memory.tracing.ledger import Ledger

_ADAMW, _SGD = OPTIMIZERS["adamw_torch"], OPTIMIZERS["sgd"]  # the real ones run
_HALVES = 2  # tensors that states are counted as: nearly all optimizers have two


class Optimizer(Protocol):
    """The part of torch's optimizer a step uses."""

    def step(self) -> Any:
        """Update the weights."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let go of the gradients."""


class States:
    """An optimizer that takes one weight after another, with states as ``memory.optimizers`` says."""

    def __init__(self, kind: Kind, parameters: list[torch.nn.Parameter], ledger: Ledger) -> None:
        self._kind = kind
        self._parameters = parameters
        self._ledger = ledger
        self._states: dict[int, list[torch.Tensor]] = {}

    def step(self) -> None:
        """Make the states that do not exist yet, and what each weight's step needs for a moment."""
        for parameter in self._parameters:
            if parameter.grad is None:
                continue
            shape = ((parameter.shape[0], parameter[0].numel() if parameter.dim() > 1 else 1, 1),)
            width = parameter.element_size()
            if id(parameter) not in self._states:
                half = -(-round(state_bytes(self._kind, shape, width)) // _HALVES)
                self._states[id(parameter)] = [
                    parameter.new_empty(half, dtype=torch.uint8) for _ in range(_HALVES if half else 0)
                ]
            if working := round(step_bytes(self._kind, shape, width)):
                self._ledger.drop(self._ledger.hold(working, "optimizer"))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let go of the gradients, whatever is asked: kept zeros are as large."""
        del set_to_none
        for parameter in self._parameters:
            parameter.grad = None


class InBackward:
    """An optimizer of its own for each weight, that steps as soon as the gradient exists and lets go of it."""

    def __init__(
        self, parameters: list[torch.nn.Parameter], made: Callable[[list[torch.nn.Parameter]], Optimizer]
    ) -> None:
        self._each = {parameter: made([parameter]) for parameter in parameters}
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._now)

    def step(self) -> None:
        """Do nothing: it is done."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: no gradient is left."""

    def _now(self, parameter: torch.nn.Parameter) -> None:
        self._each[parameter].step()
        parameter.grad = None


def optimizer_of(
    kind: Kind, parameters: list[torch.nn.Parameter], ledger: Ledger, *, cuda: bool
) -> Optimizer:
    """Return an optimizer of these weights; ``cuda`` = torch's own default there is the foreach kind."""
    made = partial(_made, kind, ledger=ledger, cuda=cuda)
    return InBackward(parameters, made) if kind.in_backward else made(parameters)


def is_loop(kind: Kind, *, cuda: bool) -> bool:
    """Return whether it takes the weights one by one, so that its temporaries never live together."""
    return bool(kind.step_bytes) or (kind == _ADAMW and not cuda)


def _made(kind: Kind, parameters: list[torch.nn.Parameter], *, ledger: Ledger, cuda: bool) -> Optimizer:
    if kind == _ADAMW:
        return torch.optim.AdamW(parameters, foreach=cuda)  # type: ignore[no-any-return]
    if kind == _SGD:
        return torch.optim.SGD(parameters, foreach=cuda)  # type: ignore[no-any-return]
    return States(kind, parameters, ledger)
