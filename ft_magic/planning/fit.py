"""Choose micro-batch and checkpointing so that a step fits in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ft_magic.errors import SpecError
from ft_magic.memory import Memory, Workload, estimate
from ft_magic.planning.plans import Situation
from ft_magic.spec import Spec

# Share of free memory a plan may use; the rest is for the notebook, the browser and fragmentation.
_USABLE = 0.8
Value_co = TypeVar("Value_co", covariant=True)


@dataclass(frozen=True)
class Choice(Generic[Value_co]):
    """A decided value and why."""

    value: Value_co
    reason: str


def memory_limit_bytes(situation: Situation) -> int:
    """Return what the device can give: the smallest GPU, or the free memory."""
    gpus = situation.hardware.gpus
    return min(gpu.memory_bytes for gpu in gpus) if gpus else situation.hardware.memory_free_bytes


def fit(
    spec: Spec, situation: Situation, work: Workload, batch: int, limit_bytes: int
) -> tuple[Choice[int], Choice[bool], Memory]:
    """Choose micro-batch and checkpointing together: the largest that fits, without checkpointing if it can."""
    sizes = [size for size in range(batch, 0, -1) if batch % size == 0]
    if spec.micro_batch_size is not None:
        if batch % spec.micro_batch_size:
            raise SpecError(
                f"batch_size {batch} is no multiple of micro_batch_size {spec.micro_batch_size}.",
                f"Choose micro_batch_size from: {', '.join(map(str, sizes))}.",
            )
        sizes = [spec.micro_batch_size]
    modes = [False, True] if spec.gradient_checkpointing is None else [spec.gradient_checkpointing]
    examples_each = 2 if work.full_logits else 1
    for checkpointing in modes:
        for size in sizes:
            load = replace(work, micro_batch_examples=size * examples_each, checkpointing=checkpointing)
            memory = estimate(situation.facts, load)
            last = checkpointing == modes[-1] and size == sizes[-1]
            if memory.total_bytes <= _USABLE * limit_bytes or last:
                fits = memory.total_bytes <= _USABLE * limit_bytes
                return _micro_choice(spec, size, fits=fits), _checkpointing(spec, checkpointing), memory
    raise AssertionError("unreachable: the last size is always returned")


def _micro_choice(spec: Spec, size: int, *, fits: bool) -> Choice[int]:
    if spec.micro_batch_size is not None:
        return Choice(size, "asked for")
    return Choice(size, "the largest that fits in memory" if fits else "the smallest; it may still not fit")


def _checkpointing(spec: Spec, value: bool) -> Choice[bool]:
    if spec.gradient_checkpointing is not None:
        return Choice(value, "asked for")
    return Choice(
        value, "saves memory for a second forward pass" if value else "memory is plenty; saves a third"
    )
