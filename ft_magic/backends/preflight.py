"""One step on the longest rows before training, which leaves no trace: does it fit, and what does it take?

Worker only. The trainer itself runs it, up to the moment in which weights would change, so that every method and
every update is tried on its own code: answering, forward, backward, gradients of earlier micro-batches, evaluation.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_callback import DefaultFlowCallback

from ft_magic.backends import Emit, shortage
from ft_magic.backends.attributes import Attributes
from ft_magic.backends.random_state import RandomState
from ft_magic.backends.shortage import ShortageError
from ft_magic.planning.measured import tried_eta_s
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import EVAL, TRAIN, advice, change, eval_batch_size, smaller

_READ_ROWS = 1000  # rows measured at a time
_STATE_BYTES = 8  # a trained weight: AdamW's two fp32 moments, which come with the first step
_STATE_BYTES_8BIT = 2
_TIGHT = 0.9  # of the memory there is: allocators and other programs move by more than the rest
_SETTINGS = ("max_steps", "eval_strategy", "save_strategy", "per_device_eval_batch_size")


class _RehearsedError(Exception):
    """Ends a rehearsal where weights would change."""


class _EndBeforeChange(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    def __init__(self, peaks: Peaks) -> None:
        self.peaks = peaks

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.peaks.began_s = now_s()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.peaks.step_s = now_s() - self.peaks.began_s
        raise _RehearsedError


@dataclass
class Peaks:
    """Highest memory in bytes, and seconds, of a training step and of an evaluation batch.

    ``part`` is what is being tried; ``share`` how much of an optimizer step's micro-batches were.
    """

    step_bytes: int = 0
    eval_bytes: int = 0
    part: str = TRAIN
    began_s: float = 0.0
    step_s: float = 0.0
    eval_s: float = 0.0
    share: float = 1.0


def rehearse(trainer: Any, plan: Plan, emit: Emit) -> None:
    """Try a training step and an evaluation on the longest rows; tell the peak as an event.

    Weights, random numbers, data order and the trainer's own state are afterwards what they were before. An error
    of another kind than memory is told as a warning: training itself will show what it is about.

    Raises:
        ShortageError: it does not fit; its ``part`` says what.
    """
    told(plan, emit, lambda peaks: _measure(trainer, plan, peaks))


def told(plan: Plan, emit: Emit, measure: Callable[[Peaks], None]) -> None:
    """Measure, and tell the peak as an event, or what else went wrong as a warning.

    Raises:
        ShortageError: it does not fit; its ``part`` says what.
    """
    began, peaks = time.monotonic(), Peaks()
    try:
        measure(peaks)
    except ShortageError:
        raise
    except Exception as error:  # noqa: BLE001  told, and met again by training if it is no fault of the try
        failed = error
    else:
        emit(
            "preflight",
            micro_batch_size=plan.settings.micro_batch_size,
            measured_bytes=max(peaks.step_bytes, peaks.eval_bytes),
            step_bytes=peaks.step_bytes,
            eval_bytes=peaks.eval_bytes,
            planned_bytes=plan.memory.total_bytes,
            limit_bytes=plan.memory_limit_bytes,
            step_s=peaks.step_s / peaks.share,
            eval_s=peaks.eval_s,
            eta_s=tried_eta_s(plan, peaks.step_s / peaks.share, peaks.eval_s),
            message=_words(plan, peaks),
            seconds=time.monotonic() - began,
        )
        _warn_of_little_room(plan, peaks, emit)
        return
    short, line = shortage.is_shortage(failed), shortage.one_line(failed)
    shortage.forget(failed)
    if short:
        raise ShortageError(f"preflight on the longest rows: {line}", part=peaks.part)
    emit("warning", message=f"the preflight could not be done: {line}.", fix="Training starts without it.")


def _warn_of_little_room(plan: Plan, peaks: Peaks, emit: Emit) -> None:
    """Tell when what fits now leaves little for the rest of the machine."""
    measured, limit = max(peaks.step_bytes, peaks.eval_bytes), plan.memory_limit_bytes
    if measured <= _TIGHT * limit:
        return
    less = smaller(plan, TRAIN)
    fix = (
        advice(plan)
        if less is None
        else f"Memory that runs out is met by {change(plan, less)}; or close programs."
    )
    emit(
        "warning",
        message=f"the longest rows take {measured / 2**30:.2f} of {limit / 2**30:.2f} GiB: little is left.",
        fix=fix,
    )


def _measure(trainer: Any, plan: Plan, peaks: Peaks) -> None:
    # Room for what the optimizer adds at its first step, so that what fits now fits later.
    states = _state_bytes(trainer, plan)
    held = torch.empty(states, dtype=torch.uint8, device="cuda") if _on_gpu(plan) else None
    untouched = 0 if held is not None else states
    with _no_trace(trainer, peaks):
        forget_peak()
        _one_step(trainer, plan, peaks)
        peaks.step_bytes = peak_bytes() + untouched
        if trainer.eval_dataset is not None:
            peaks.part = EVAL
            forget_peak()
            trainer.eval_dataset = _longest(trainer.eval_dataset, eval_batch_size(plan))
            began_s = now_s()
            trainer.evaluate()
            peaks.eval_s = now_s() - began_s
            peaks.eval_bytes = peak_bytes() + untouched


@contextmanager
def _no_trace(trainer: Any, peaks: Peaks) -> Iterator[None]:
    """Put back everything that a step short of its end changes."""
    kept, chance = Attributes.of(trainer), RandomState.now()
    settings = {name: getattr(trainer.args, name) for name in _SETTINGS}
    callbacks, scaler = trainer.callback_handler.callbacks, copy.deepcopy(trainer.accelerator.scaler)
    mode = trainer.model.training
    try:
        with tempfile.TemporaryDirectory() as folder:
            # No tracker, no display; what a trainer writes down on the way goes with the folder.
            trainer.callback_handler.callbacks = [DefaultFlowCallback(), _EndBeforeChange(peaks)]
            if hasattr(trainer, "folder"):
                trainer.folder, trainer.emit = Path(folder), _unheard
            yield
    finally:
        trainer.model.zero_grad(set_to_none=True)
        trainer.callback_handler.callbacks = callbacks
        trainer.accelerator.free_memory()
        trainer.accelerator.scaler = scaler
        for name, value in settings.items():
            setattr(trainer.args, name, value)
        kept.put_back()
        trainer.model.train(mode)
        shortage.free()
        chance.put_back()


def _unheard(*_: Any, **__: Any) -> None:
    """Swallow an event of a step that is not one."""


def _one_step(trainer: Any, plan: Plan, peaks: Peaks) -> None:
    """Run the trainer's own loop on the longest rows up to the point where weights would change."""
    settings = plan.settings
    together = plan.method.feed in ("prompts", "demos")  # answers of a whole step are sampled at once
    count = (
        settings.batch_size if together else settings.micro_batch_size * min(2, settings.accumulation_steps)
    )
    peaks.share = 1.0 if together else min(2, settings.accumulation_steps) / settings.accumulation_steps
    rows = trainer.train_dataset = _longest(
        trainer.train_dataset, count, settings.batch_size if together else settings.micro_batch_size
    )
    trainer.args.max_steps = 1
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    if not together:
        # Longest first, whatever the order of training.
        trainer._get_train_sampler = lambda *_: SequentialSampler(rows)  # noqa: SLF001  transformers has no other seam
    try:
        trainer.train()
    except _RehearsedError:
        trainer.model.zero_grad(set_to_none=True)
    else:
        raise RuntimeError("the preflight step ended without a gradient")


def _longest(rows: Any, count: int, different: int | None = None) -> Any:
    """Return ``count`` rows: the longest ``different`` ones, again and again where there are too few."""
    sizes = [
        sum(_tokens(value) for value in row)
        for start in range(0, len(rows), _READ_ROWS)
        for row in zip(*rows[start : start + _READ_ROWS].values(), strict=True)
    ]
    order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)[: different or count]
    return rows.select([order[place % len(order)] for place in range(count)])


def _tokens(value: Any) -> int:
    """Return how many ids a column of a row holds, as a list or as its JSON text."""
    if isinstance(value, str):
        return value.count(",") + 1
    return len(value) if isinstance(value, list) else 0


def _state_bytes(trainer: Any, plan: Plan) -> int:
    trained = sum(int(weight.numel()) for weight in trainer.model.parameters() if weight.requires_grad)
    if "8bit" in plan.settings.optim:
        return trained * _STATE_BYTES_8BIT
    return 0 if plan.settings.optim == "sgd" else trained * _STATE_BYTES


def _words(plan: Plan, peaks: Peaks) -> str:
    """Say what was measured against what was estimated."""
    measured, planned = max(peaks.step_bytes, peaks.eval_bytes), plan.memory.total_bytes
    return (
        f"the longest rows take {measured / 2**30:.2f} GiB, {planned / 2**30:.2f} GiB were estimated, "
        f"{plan.memory_limit_bytes / 2**30:.2f} GiB are there."
    )


def now_s() -> float:
    """Return seconds that never go back, after the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _on_gpu(plan: Plan) -> bool:
    return plan.settings.device == "cuda" and torch.cuda.is_available()


def forget_peak() -> None:
    """Let the highest memory begin anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM (man 5 proc)
    except OSError:
        return  # then the peak is that of the whole process, which is no less


def peak_bytes() -> int:
    """Return the highest memory since ``forget_peak``: allocated on a GPU, resident of this process on a CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024
