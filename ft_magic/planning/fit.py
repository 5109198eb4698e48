"""Choose micro-batch and checkpointing so that a step fits in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ft_magic.errors import SpecError
from ft_magic.memory import Memory, Workload, estimate
from ft_magic.planning.padding import step_flops
from ft_magic.planning.plans import Situation
from ft_magic.spec import Spec

# Share of free memory a plan may use; the rest is for the notebook, the browser and fragmentation.
_USABLE = 0.8
# More micro-batches cost a little beyond their arithmetic, so the largest within this share of the least is taken:
# on rows of 100 to 128 tokens 8 examples took 4.8 s a step, 2 took 5.5 s, 1 took 5.7 s (measured).
_OVERHEAD = 0.05
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
    spec: Spec, situation: Situation, work: Workload, batch: int, limit_bytes: int, least: int = 1
) -> tuple[Choice[int], Choice[bool], Memory]:
    """Choose micro-batch and checkpointing together, without checkpointing where that fits.

    Args:
        spec: what was asked.
        situation: model, data and machine.
        work: what one example costs.
        batch: sequences of an optimizer step.
        limit_bytes: what the device has free.
        least: smallest micro-batch the method works with.

    Raises:
        SpecError: no micro-batch, or not the one asked for, divides the batch.
    """
    sizes = [size for size in range(batch, least - 1, -1) if batch % size == 0]
    if not sizes:
        raise SpecError(
            f"batch_size {batch} is too small: method '{spec.method}' needs {least} examples at once.",
            f"Write batch_size: {2 * least} or more.",
        )
    if spec.micro_batch_size is not None:
        if spec.micro_batch_size not in sizes:
            raise SpecError(
                f"micro_batch_size {spec.micro_batch_size} does not fit a batch of {batch}.",
                f"Choose micro_batch_size from: {', '.join(map(str, sizes))}.",
            )
        sizes = [spec.micro_batch_size]
    modes = _modes(spec, work)
    for checkpointing in modes:
        loads = {
            size: replace(work, micro_batch_examples=size, checkpointing=checkpointing) for size in sizes
        }
        memory = {size: estimate(situation.facts, load) for size, load in loads.items()}
        fitting = [size for size in sizes if memory[size].total_bytes <= _USABLE * limit_bytes]
        if fitting or checkpointing == modes[-1]:
            micro = _micro_choice(spec, situation, work, fitting or sizes[-1:], batch, fits=bool(fitting))
            return micro, _checkpointing(spec, checkpointing), memory[micro.value]
    raise AssertionError("unreachable: the last mode always returns")


def _modes(spec: Spec, work: Workload) -> list[bool]:
    """Return whether to try without and with checkpointing.

    Raises:
        SpecError: it is asked for with an update whose learned prefix it would throw away.
    """
    if spec.gradient_checkpointing is not None:
        if spec.gradient_checkpointing and work.update.in_cache:
            raise SpecError(
                f"gradient_checkpointing and update '{work.update.name}' do not go together: the prefix lives in the "
                "cache, which recomputing leaves out.",
                "Leave gradient_checkpointing out, or use another update.",
            )
        return [spec.gradient_checkpointing]
    return [False] if work.update.in_cache else [False, True]


def _micro_choice(
    spec: Spec, situation: Situation, work: Workload, fitting: list[int], batch: int, *, fits: bool
) -> Choice[int]:
    """Take the largest on a GPU, which large matrices keep busy; on a CPU the one that computes least."""
    if spec.micro_batch_size is not None:
        return Choice(fitting[0], "asked for")
    if not fits:
        return Choice(fitting[0], "the smallest; it may still not fit")
    if work.gpu or work.full_logits or not situation.lengths.tokens:
        return Choice(fitting[0], "the largest that fits in memory")
    flops = {
        size: step_flops(situation.facts, situation.lengths, size, batch, work.length_tokens)
        for size in fitting
    }
    nearly_least = [size for size in fitting if flops[size] <= (1 + _OVERHEAD) * min(flops.values())]
    return Choice(nearly_least[0], "computes least: padding against passes started")


def _checkpointing(spec: Spec, value: bool) -> Choice[bool]:
    if spec.gradient_checkpointing is not None:
        return Choice(value, "asked for")
    return Choice(
        value, "saves memory for a second forward pass" if value else "memory is plenty; saves a third"
    )
