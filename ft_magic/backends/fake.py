"""A backend that trains nothing: events of a plausible run, for tests of display, control and follow-up.

Chosen only by name (``backend: fake``); its result is an empty adapter folder. ``trainer: {fake_step_s: 0.05}``
sets the pace, ``fake_fail_at`` and ``fake_crash_at`` end it badly at a step.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time

from ft_magic import atomic
from ft_magic.backends import Emit, Job, Outcome
from ft_magic.errors import RunError
from ft_magic.run_folder import checkpoint_step

_STEP_S = 0.05
_EXIT_CRASHED = 9


def train(job: Job, emit: Emit) -> Outcome:
    """Emit the events of a run whose loss falls as 1/sqrt(step); answer requests like a real backend."""
    plan, folder = job.plan, job.folder
    options = plan.spec.trainer
    total = plan.settings.total_steps
    answered = 0.0
    emit("loaded", model=plan.model_name, trainable_parameters=0, total_parameters=0, seconds=0.0)
    first = checkpoint_step(job.checkpoint) + 1 if job.checkpoint else 1
    for step in range(first, total + 1):
        time.sleep(float(options.get("fake_step_s", _STEP_S)))
        if step == options.get("fake_crash_at"):
            os._exit(_EXIT_CRASHED)
        if step == options.get("fake_fail_at"):
            raise RunError(f"the loss became nan at step {step}.", "Lower the learning rate.")
        if step == options.get("fake_killed_at") and plan.settings.micro_batch_size > options.get(
            "fake_fits", 0
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        _tell(step, total, plan.settings.learning_rate, emit)
        if step % plan.settings.eval_steps == 0 and plan.settings.eval_examples:
            emit("eval", step=step, loss=0.2 + 2.2 / math.sqrt(step), metrics={})
        request = folder.asked()
        asked = request[0] if request and request[1] > answered else ""
        answered = request[1] if request else answered
        gone = not job.detached and folder.followers_gone()
        if step % plan.settings.save_steps == 0 or asked in ("save", "stop") or gone:
            _save(job, step, emit)
        if asked == "stop" or gone:
            return Outcome(
                "stopped", step, "asked to stop" if asked else "the notebook that followed this run is gone"
            )
    with atomic.new_folder(folder.adapter) as temporary:
        (temporary / "adapter_config.json").write_text("{}", encoding="utf-8")
    return Outcome("finished", total)


def _tell(step: int, total: int, rate: float, emit: Emit) -> None:
    emit(
        "step",
        step=step,
        total_steps=total,
        epoch=step / total,
        loss=2.0 / math.sqrt(step) + 0.1 * math.sin(step),
        learning_rate=rate * (1 - step / total),
        grad_norm=1.0 / math.sqrt(step),
        tokens=256 * step,
        tokens_per_s=256 / _STEP_S,
        step_s=_STEP_S,
        memory_bytes=10**9,
        eta_s=(total - step) * _STEP_S,
        metrics={},
    )


def _save(job: Job, step: int, emit: Emit) -> None:
    with atomic.new_folder(job.folder.checkpoints / f"checkpoint-{step}") as temporary:
        (temporary / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    emit("checkpoint", step=step, path=f"checkpoints/checkpoint-{step}")
