"""One step on the longest rows before training, which leaves no trace: does it fit, and what does it take?

Worker only. The trainer itself runs it, up to the moment in which weights would change, so that every method and
every update is tried on its own code: answering, forward, backward, gradients of earlier micro-batches, evaluation.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
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
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import EVAL, TRAIN, eval_batch_size

_READ_ROWS = 1000  # rows measured at a time
_STATE_BYTES = 8  # a trained weight: AdamW's two fp32 moments, which come with the first step
_STATE_BYTES_8BIT = 2
_SETTINGS = ("max_steps", "eval_strategy", "save_strategy", "per_device_eval_batch_size")


class _RehearsedError(Exception):
    """Ends a rehearsal where weights would change."""


class _EndBeforeChange(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        raise _RehearsedError


@dataclass
class _Peaks:
    """Highest memory in bytes of a training step and of an evaluation batch; ``part`` is what is being tried."""

    step_bytes: int = 0
    eval_bytes: int = 0
    part: str = TRAIN


def rehearse(trainer: Any, plan: Plan, emit: Emit) -> None:
    """Try a training step and an evaluation on the longest rows; tell the peak as an event.

    Weights, random numbers, data order and the trainer's own state are afterwards what they were before. An error
    of another kind than memory is told as a warning: training itself will show what it is about.

    Raises:
        ShortageError: it does not fit; its ``part`` says what.
    """
    began, peaks = time.monotonic(), _Peaks()
    try:
        _measure(trainer, plan, peaks)
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
            seconds=time.monotonic() - began,
        )
        return
    short, line = shortage.is_shortage(failed), shortage.one_line(failed)
    shortage.forget(failed)
    if short:
        raise ShortageError(f"preflight on the longest rows: {line}", part=peaks.part)
    emit("warning", message=f"the preflight could not be done: {line}.", fix="Training starts without it.")


def _measure(trainer: Any, plan: Plan, peaks: _Peaks) -> None:
    # Room for what the optimizer adds at its first step, so that what fits now fits later.
    states = _state_bytes(trainer, plan)
    held = torch.empty(states, dtype=torch.uint8, device="cuda") if _on_gpu(plan) else None
    untouched = 0 if held is not None else states
    with _no_trace(trainer):
        _forget_peak()
        _one_step(trainer, plan)
        peaks.step_bytes = _peak_bytes() + untouched
        if trainer.eval_dataset is not None:
            peaks.part = EVAL
            _forget_peak()
            trainer.eval_dataset = _longest(trainer.eval_dataset, eval_batch_size(plan))
            trainer.evaluate()
            peaks.eval_bytes = _peak_bytes() + untouched


@contextmanager
def _no_trace(trainer: Any) -> Iterator[None]:
    """Put back everything that a step short of its end changes."""
    kept, chance = Attributes.of(trainer), RandomState.now()
    settings = {name: getattr(trainer.args, name) for name in _SETTINGS}
    callbacks, scaler = trainer.callback_handler.callbacks, copy.deepcopy(trainer.accelerator.scaler)
    mode = trainer.model.training
    try:
        with tempfile.TemporaryDirectory() as folder:
            # No tracker, no display; what a trainer writes down on the way goes with the folder.
            trainer.callback_handler.callbacks = [DefaultFlowCallback(), _EndBeforeChange()]
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


def _one_step(trainer: Any, plan: Plan) -> None:
    """Run the trainer's own loop on the longest rows up to the point where weights would change."""
    settings = plan.settings
    together = plan.method.feed in ("prompts", "demos")  # answers of a whole step are sampled at once
    count = (
        settings.batch_size if together else settings.micro_batch_size * min(2, settings.accumulation_steps)
    )
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


def _on_gpu(plan: Plan) -> bool:
    return plan.settings.device == "cuda" and torch.cuda.is_available()


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM (man 5 proc)
    except OSError:
        return  # then the peak is that of the whole process, which is no less


def _peak_bytes() -> int:
    """Return the highest memory since ``_forget_peak``: allocated on a GPU, resident of this process on a CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024
