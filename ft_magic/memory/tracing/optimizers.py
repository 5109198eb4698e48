"""What optimizers hold and make in passing. Imported in the worker alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch

_SMALL_TENSOR = 4096  # bitsandbytes keeps the states of smaller tensors in fp32 (min_8bit_size)
_BLOCK = 256  # values that share an fp32 scale in its 8-bit states
_PAGED_FROM = 100_000  # smaller tensors of a paged optimizer stay in the caching allocator


class Optimizer(Protocol):
    """The part of torch's optimizer a step uses."""

    def step(self) -> Any:
        """Update the weights."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let go of the gradients."""


class States:
    """An optimizer whose kernel needs nothing but its states, made at the first step.

    Args:
        parameters: what trains.
        made: makes the states of one parameter.
    """

    def __init__(
        self, parameters: list[torch.nn.Parameter], made: Callable[[torch.Tensor], list[torch.Tensor]]
    ) -> None:
        self._parameters = parameters
        self._made = made
        self._states: dict[int, list[torch.Tensor]] = {}

    def step(self) -> None:
        """Make the states that do not exist yet."""
        for parameter in self._parameters:
            if parameter.grad is not None and id(parameter) not in self._states:
                self._states[id(parameter)] = self._made(parameter)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let go of the gradients, whatever is asked: kept zeros are as large."""
        del set_to_none
        for parameter in self._parameters:
            parameter.grad = None


def _two(parameter: torch.Tensor) -> list[torch.Tensor]:
    return [torch.zeros_like(parameter) for _ in range(2)]


def _eight_bit(parameter: torch.Tensor, states: int = 2) -> list[torch.Tensor]:
    count = parameter.numel()
    if count < _SMALL_TENSOR:
        return [torch.zeros_like(parameter, dtype=torch.float32) for _ in range(states)]
    scales = -(-count // _BLOCK)
    return [parameter.new_zeros(count, dtype=torch.uint8) for _ in range(states)] + [
        parameter.new_zeros(scales, dtype=torch.float32) for _ in range(states)
    ]


def _paged(parameter: torch.Tensor) -> list[torch.Tensor]:
    """Paged states are managed memory, outside the caching allocator."""
    return [] if parameter.numel() >= _PAGED_FROM else _eight_bit(parameter)


def _paged_whole(parameter: torch.Tensor) -> list[torch.Tensor]:
    return [] if parameter.numel() >= _PAGED_FROM else _two(parameter)


# name -> an optimizer of these weights. torch's foreach AdamW makes a copy of all of them in passing.
OPTIMIZERS: Mapping[str, Callable[[list[torch.nn.Parameter]], Optimizer]] = MappingProxyType(
    {
        "adamw": lambda rows: torch.optim.AdamW(rows, foreach=True),
        "adamw_loop": lambda rows: torch.optim.AdamW(rows, foreach=False),
        "adamw_fused": lambda rows: States(rows, _two),
        "adamw_8bit": lambda rows: States(rows, _eight_bit),
        "paged_adamw_8bit": lambda rows: States(rows, _paged),
        "paged_adamw_32bit": lambda rows: States(rows, _paged_whole),
        "adafactor": lambda rows: torch.optim.Adafactor(rows, foreach=True),
        "sgd": lambda rows: torch.optim.SGD(rows, foreach=True),
    }
)
