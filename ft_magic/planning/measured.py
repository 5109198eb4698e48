"""A plan as its run measured it: the memory and time it took instead of what was estimated. Pure values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from ft_magic.events import Event, of_kind
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import as_retried, eval_batch_size

_FEWEST_STEPS = 2  # the first is slower than the rest


def as_measured(plan: Plan, events: Sequence[Event]) -> Plan:
    """Return a plan with the settings its run goes on with, and the memory and time measured so far.

    Args:
        plan: as it was made.
        events: of its run.
    """
    plan = _with_reasons(plan, as_retried(plan, events))
    tried = next(reversed(list(of_kind(list(events), "preflight"))), None)
    steps = list(of_kind(list(events), "step"))
    began_t = next((event.t for event in reversed(events) if event.kind == "started"), None)
    if tried is not None:
        plan = replace(
            plan,
            measured_bytes=int(tried["measured_bytes"]),
            measured_where="the preflight on the longest rows",
        )
        if tried.get("eta_s") and not plan.eta_steps:
            before_s = tried.t - began_t if began_t is not None else 0.0
            plan = replace(plan, eta_s=max(0.0, before_s) + float(tried["eta_s"]), eta_source=TRIED)
    peak = max((int(event.get("memory_bytes") or 0) for event in steps), default=0)
    if peak > plan.measured_bytes:
        plan = replace(plan, measured_bytes=peak, measured_where=f"{len(steps)} steps of training")
    if len(steps) > _FEWEST_STEPS and steps[-1].get("eta_s") is not None:
        done_s = steps[-1].t - began_t if began_t is not None else 0.0
        source = f"from {len(steps)} steps of this run"
        plan = replace(
            plan, eta_s=done_s + float(steps[-1]["eta_s"]), eta_source=source, eta_steps=len(steps)
        )
    return plan


def _with_reasons(planned: Plan, now: Plan) -> Plan:
    """Say of each setting that memory changed on the way what it was."""
    before, after = asdict(planned.settings), asdict(now.settings)
    changed = {
        name: f"memory ran short; {was} was planned" for name, was in before.items() if after[name] != was
    }
    return replace(now, reasons={**now.reasons, **changed})


TRIED = "from the preflight's one step, on the longest rows and without checkpoints"


def tried_eta_s(plan: Plan, step_s: float, eval_s: float) -> float:
    """Return how long a run's steps and evaluations take if all are like the preflight's.

    Args:
        plan: of the run.
        step_s: of a whole optimizer step.
        eval_s: of an evaluation batch; 0 where none was tried.
    """
    settings = plan.settings
    batches = math.ceil(settings.eval_examples / max(1, eval_batch_size(plan)))
    evaluations = math.ceil(settings.total_steps / settings.eval_steps) if settings.eval_examples else 0
    return settings.total_steps * step_s + evaluations * batches * eval_s
