"""Train, and where memory runs short go on from the last completed step with smaller parts of the same batch."""

from __future__ import annotations

from dataclasses import replace

from ft_magic import backends, events
from ft_magic.backends import Emit, Job, Outcome, shortage
from ft_magic.backends.shortage import ShortageError
from ft_magic.planning.smaller import TRAIN, advice, as_retried, change, given, smaller
from ft_magic.run_folder import checkpoint_step


def train(job: Job, emit: Emit) -> Outcome:
    """Train a job; each attempt builds everything anew from the checkpoint of the step it goes on from.

    Raises:
        ShortageError: not even the smallest setting fits, or the model itself is too large.
    """
    while True:
        found = _attempt(job, emit)
        if isinstance(found, Outcome):
            return found
        job = _next(job, found, emit)


def _attempt(job: Job, emit: Emit) -> Outcome | ShortageError:
    """Train once; return the shortage it ended with, after everything that the attempt held is let go."""
    try:
        return backends.load(job.plan.settings.backend).train(job, emit)
    except Exception as error:
        if not shortage.is_shortage(error):
            raise
        kept = error
    shortage.forget(kept)
    if isinstance(kept, ShortageError):
        return kept
    return ShortageError(shortage.one_line(kept), part=TRAIN)


def _next(job: Job, found: ShortageError, emit: Emit) -> Job:
    """Return the job to go on with, and tell of it.

    Raises:
        ShortageError: nothing smaller is left.
    """
    job = replace(
        job, plan=as_retried(job.plan, events.read(job.folder.events))
    )  # evaluation may have shrunk
    plan = smaller(job.plan, found.part, found.at_once) if found.part else None
    latest = job.folder.latest_checkpoint()
    step = checkpoint_step(latest) if latest else 0
    done = step if found.step is None else found.step
    if plan is None:
        raise _hopeless(job, found, done)
    emit(
        "oom_retry",
        step=step,
        part=found.part,
        micro_batch_size_before=job.plan.settings.micro_batch_size,
        micro_batch_size=plan.settings.micro_batch_size,
        settings=given(plan),
        message=f"out of memory after step {done}: {change(job.plan, plan)}.",
        fix=f"The batch stays the same; training goes on from step {step}.",
        error=found.problem,
    )
    return replace(job, plan=plan, checkpoint=latest)


def _hopeless(job: Job, found: ShortageError, done: int) -> ShortageError:
    if not found.part:
        return found
    settings = job.plan.settings
    tried = f"micro-batch {settings.micro_batch_size}"
    if settings.gradient_checkpointing:
        tried += " and gradient checkpointing"
    return ShortageError(
        f"step {done + 1} does not fit in memory even with {tried} ({found.problem}).", advice(job.plan)
    )
