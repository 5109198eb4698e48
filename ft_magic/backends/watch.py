"""The worker's eyes and ears during training: events out, requests in, complete checkpoints only.

Imported in the worker alone, so heavy libraries stand at the top.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft_magic import events
from ft_magic.backends import Emit, Job
from ft_magic.backends.pace import Pace
from ft_magic.backends.random_state import RandomState
from ft_magic.errors import RunError
from ft_magic.run_folder import checkpoint_step

_KEEP_CHECKPOINTS = 2
_POLL_S = 0.5  # how often a paused run looks for a request
_KNOWN = {"loss", "grad_norm", "learning_rate", "epoch", "num_tokens"}


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Turns trainer callbacks into events and requests into trainer control."""

    def __init__(
        self, job: Job, emit: Emit, *, sample: Any = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.job, self.emit, self.sample, self.clock = job, emit, sample, clock
        self.now = Pace(started_t=_session_began_t(job, clock()), last_saved_t=clock())
        if job.checkpoint is not None and job.plan.spec.early_stopping is not None:
            self._remember(checkpoint_step(job.checkpoint))

    # -- steps

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of a step."""
        self.now.step_began_t = time.perf_counter()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Note that weights begin to change."""
        self.now.in_optimizer = True

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """Stop the clock; ask for a save or a stop where one is due."""
        self.now.in_optimizer = False
        self.now.step_s.append(time.perf_counter() - self.now.step_began_t)
        now_t, before_t = self.clock(), self.now.step_ended_t
        self.now.round_s = max(self.now.round_s, now_t - before_t if before_t else self.now.step_s[-1])
        self.now.step_ended_t = now_t
        control.should_save = self.now.saves(self.job.plan, state.global_step, due=control.should_save)
        self._answer(state.global_step, control)
        spec = self.job.plan.spec
        if spec.time_budget and self.now.last_in(60 * spec.time_budget):
            self._stop(control, f"another step could outlast the time budget of {spec.time_budget:g} minutes")
        if not self.job.detached and self.job.folder.followers_gone():
            self._stop(control, "the notebook that followed this run is gone")
        self.now.random = RandomState.now()

    def on_log(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **__: Any,
    ) -> None:
        """Tell a step."""
        if not logs or "loss" not in logs:
            return
        tokens = float(logs.get("num_tokens", 0.0))
        step_s = self.now.step_s[-1] if self.now.step_s else 0.0
        new_tokens, self.now.tokens = tokens - self.now.tokens, tokens
        metrics = {k: v for k, v in logs.items() if k not in _KNOWN and isinstance(v, int | float)}
        self.emit(
            "step",
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=state.epoch,
            loss=logs["loss"],
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens=tokens,
            tokens_per_s=new_tokens / step_s if step_s and new_tokens > 0 else None,
            step_s=step_s,
            memory_bytes=process_memory_bytes(),
            eta_s=self.now.left_s(self.job.plan.settings, state.global_step),
            metrics=metrics,
        )
        if not math.isfinite(logs["loss"]):
            self.now.failure = _not_finite(state.global_step, float(logs["loss"]), self.job)
            control.should_training_stop = True
            control.should_save = False

    # -- evaluations and checkpoints

    def on_evaluate(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **__: Any,
    ) -> None:
        """Tell an evaluation; keep the best and stop early where the spec says so."""
        self.now.evaluated_t = self.clock()
        if self.now.step_ended_t:
            self.now.eval_s = self.now.evaluated_t - self.now.step_ended_t
        found = {key.removeprefix("eval_"): value for key, value in (metrics or {}).items()}
        loss = found.pop("loss", None)
        extra = {k: v for k, v in found.items() if k not in _KNOWN and isinstance(v, int | float)}
        goal = self.job.plan.method.goal
        score = extra.get(goal) if goal else None if loss is None else -float(loss)
        self.now.random = (
            RandomState.now()
        )  # evaluations may draw random numbers, and a checkpoint comes after them
        if score is None:
            return
        # A policy-gradient loss says nothing about held-out prompts; the goal does.
        self.emit("eval", step=state.global_step, loss=None if goal else loss, metrics=extra)
        self._judge(float(score), state.global_step, control)

    def _remember(self, last_step: int) -> None:
        """Take up the best evaluation of a run that goes on, from its events."""
        goal = self.job.plan.method.goal
        for event in events.of_kind(events.read(self.job.folder.events), "eval"):
            score = event["metrics"].get(goal) if goal else event["loss"] and -event["loss"]
            if event["step"] > last_step or score is None:
                continue
            self._is_best(score, event["step"])

    def _is_best(self, score: float, step: int) -> bool:
        """Note an evaluation; return whether it is the best so far."""
        better = score > self.now.best_eval
        if better:
            self.now.best_eval, self.now.best_step, self.now.evals_since_best = score, step, 0
        else:
            self.now.evals_since_best += 1
        return better

    def _judge(self, score: float, step: int, control: TrainerControl) -> None:
        """Keep the step with the best held-out score; stop where no better one comes, if the spec says so."""
        patience = self.job.plan.spec.early_stopping
        if patience is None:
            return
        if self._is_best(score, step):
            control.should_save = True
        elif self.now.evals_since_best >= patience:
            control.should_training_stop = True
            what = self.job.plan.method.goal or "loss"
            self.emit(
                "warning",
                message=f"held-out {what} has not improved for {patience} evaluations: stopping early.",
                fix=f"The result is the model of step {self.now.best_step}, the best one.",
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, _: TrainerControl, **__: Any) -> None:
        """Move the checkpoint the trainer has finished writing under its final name; drop the oldest."""
        if not state.is_world_process_zero:
            return
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        final = self.job.folder.checkpoints / written.name
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        self.now.last_saved_t = self.clock()
        began_t = max(self.now.step_ended_t, self.now.evaluated_t)
        self.now.save_s = self.now.last_saved_t - began_t if began_t else 0.0
        self.now.saving_s += self.now.save_s
        self.emit("checkpoint", step=state.global_step, path=f"checkpoints/{final.name}")
        self._rotate()

    def _rotate(self) -> None:
        found = sorted(self.job.folder.checkpoints.glob("checkpoint-*"), key=checkpoint_step)
        for old in found[:-_KEEP_CHECKPOINTS]:
            if checkpoint_step(old) != self.now.best_step:
                shutil.rmtree(old)

    # -- requests

    def _answer(self, step: int, control: TrainerControl) -> None:
        """Do what was asked through control.json since the last look."""
        request = self.job.folder.asked()
        if request is None or request[1] <= self.now.answered_t:
            return
        action, self.now.answered_t = request
        if action == "stop":
            self._stop(control, "asked to stop")
        elif action == "save":
            control.should_save = True
        elif action == "sample" and self.sample is not None:
            self.sample(step)
        elif action == "pause":
            self._pause(step, control)

    def _pause(self, step: int, control: TrainerControl) -> None:
        self.job.folder.update_state(status="paused")
        while (request := self.job.folder.asked()) is not None and request[1] <= self.now.answered_t:
            if not self.job.detached and self.job.folder.followers_gone():
                break
            time.sleep(_POLL_S)
        self.job.folder.update_state(status="running")
        self.now.step_ended_t = self.clock()  # no step was so long
        self._answer(step, control)

    def _stop(self, control: TrainerControl, reason: str) -> None:
        self.now.stop_reason = self.now.stop_reason or reason
        control.should_save = True
        control.should_training_stop = True


def _session_began_t(job: Job, now_t: float) -> float:
    """Return when this session of the run began, which includes loading: its last ``started`` event."""
    started = list(events.of_kind(events.read(job.folder.events), "started"))
    return started[-1].t if started else now_t


def _not_finite(step: int, loss: float, job: Job) -> RunError:
    settings = job.plan.settings
    causes = [f"the learning rate ({settings.learning_rate:g}) is too high: try a tenth"]
    if settings.precision == "fp16":
        causes.append("fp16 overflows: try precision: bf16 or fp32")
    causes.append("a row holds damaged text: look at %ft data")
    return RunError(
        f"the loss became {loss} at step {step}, so training stopped; the checkpoints before it are kept.",
        "Likely causes: " + "; ".join(causes) + ".",
    )


def process_memory_bytes() -> int:
    """Return what training holds now: peak allocated GPU memory, or this process's resident memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
