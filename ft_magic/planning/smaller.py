"""The next setting that needs less memory and learns the same: smaller parts of the same batch. Pure values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ft_magic.events import Event, of_kind
from ft_magic.planning.plans import Plan

TRAIN, EVAL, GENERATE = "train", "eval", "generate"  # parts of a step that can run out of memory
# Settings that a shortage of memory may change; none of them changes what is learned.
_GIVES = (
    "micro_batch_size", "accumulation_steps", "gradient_checkpointing", "eval_batch_size", "generation_batch_size",
)  # fmt: skip


def smaller(plan: Plan, part: str, at_once: int = 0) -> Plan | None:
    """Return the plan with the next smaller setting for a part that did not fit, or None where there is none.

    Training takes half the micro-batch (the largest part of the batch that is no more than half) and as many more
    of them, then gradient checkpointing; evaluation half its batch, whole groups of answers; generation half of what
    is answered at once, whole groups where there is more than one.

    Args:
        plan: as it is.
        part: what did not fit: ``TRAIN``, ``EVAL`` or ``GENERATE``.
        at_once: prompts that were answered at once, for ``GENERATE``.
    """
    if part == EVAL:
        return _smaller_evaluation(plan)
    if part == GENERATE:
        return _smaller_generation(plan, at_once)
    settings = plan.settings
    sequences = settings.micro_batch_size * settings.accumulation_steps
    least = plan.method.least_micro_batch
    sizes = [size for size in range(least, settings.micro_batch_size // 2 + 1) if sequences % size == 0]
    if sizes:
        return with_settings(plan, micro_batch_size=sizes[-1], accumulation_steps=sequences // sizes[-1])
    if not settings.gradient_checkpointing and not plan.update.in_cache:
        return with_settings(plan, gradient_checkpointing=True)
    return None


def _smaller_evaluation(plan: Plan) -> Plan | None:
    group, now = max(1, plan.settings.num_generations), eval_batch_size(plan)
    half = now // 2 // group * group
    return with_settings(plan, eval_batch_size=half) if half else None


def _smaller_generation(plan: Plan, at_once: int) -> Plan | None:
    half, group = at_once // 2, plan.settings.num_generations
    if group and half >= group:
        half -= half % group
    return with_settings(plan, generation_batch_size=half) if half else None


def eval_batch_size(plan: Plan) -> int:
    """Return how many sequences are evaluated at once: whole groups of answers where answers are compared."""
    settings, group = plan.settings, plan.settings.num_generations
    if settings.eval_batch_size:
        return settings.eval_batch_size
    return max(1, settings.micro_batch_size // group) * group if group else settings.micro_batch_size


def with_settings(plan: Plan, **changes: Any) -> Plan:
    """Return the plan with other settings."""
    return replace(plan, settings=replace(plan.settings, **changes))


def given(plan: Plan) -> dict[str, Any]:
    """Return the settings that a shortage may change, as an event tells them."""
    return {name: getattr(plan.settings, name) for name in _GIVES}


def as_retried(plan: Plan, events: Sequence[Event]) -> Plan:
    """Return the plan as its run goes on: with the settings of the last shortage its events tell of."""
    told: Mapping[str, Any] = {}
    for event in of_kind(list(events), "oom_retry"):
        told = event.get("settings") or told
    return with_settings(plan, **{name: told[name] for name in _GIVES if name in told})


def change(before: Plan, after: Plan) -> str:
    """Say in words what differs between two plans: ``micro-batch 4 -> 2, accumulation 2 -> 4``."""
    names = {"micro_batch_size": "micro-batch", "accumulation_steps": "accumulation"}
    old, new = given(before), given(after)
    return ", ".join(
        f"{names.get(name, name.replace('_', ' '))} {old[name] or 'whole'} -> {new[name]}"
        for name in _GIVES
        if old[name] != new[name]
    )


def advice(plan: Plan) -> str:
    """Return what to change where not even the smallest setting fits."""
    settings, ways = plan.settings, []
    ways.append(f"a smaller max_length (now {settings.max_length})")
    if settings.num_generations:
        ways.append(f"a smaller max_completion_length (now {settings.max_completion_length})")
    if plan.update.family == "full":
        ways.append("update: lora")
    elif not plan.update.bits:
        ways.append("update: qlora")
    ways.append("a smaller model")
    return f"Write {', '.join(ways[:-1])}, or take {ways[-1]}."
