"""A worker that ended without a word: did memory end it, and with what does its run go on?

The kernel ends a process that takes the last memory by a signal nobody can answer (SIGKILL). What is left are the exit
status, the kernel's own counts of such ends, and its log where that may be read.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft_magic import events, hardware
from ft_magic.run_folder import RunFolder, checkpoint_step

SURE, LIKELY, UNKNOWN, NO = "sure", "likely", "unknown", "no"
# Adds half of the machine's memory to how large the kernel thinks the worker is when it chooses what to end (proc(5),
# oom_score_adj: -1000 to 1000): the worker goes on from a checkpoint, a notebook's kernel would lose its variables.
_VOLUNTEER = 500
_KERNEL_LOG = "/dev/kmsg"
_LOG_BYTES = 8192  # largest record of the kernel's log (Documentation/ABI/testing/dev-kmsg)
_CLOCKS_DIFFER_S = 5.0  # between the log's clock and the monotonic one
_WHERE = {"container": "in this container", "machine": "on this machine"}


@dataclass(frozen=True)
class Death:
    """How a worker ended that did not say so itself.

    Attributes:
        memory: whether memory ended it: ``SURE``, ``LIKELY``, ``UNKNOWN`` or ``NO``.
        words: how it ended, after "the worker ".
        loading: whether that was before the model was loaded, where smaller parts of a batch are no help.
    """

    memory: str
    words: str
    loading: bool = False

    @property
    def shrinks(self) -> bool:
        """Whether going on with smaller parts of the batch is worth trying."""
        return self.memory != NO and not self.loading


def volunteer() -> None:
    """Let the kernel end this process rather than the notebook when memory runs out."""
    place = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):  # other systems have no such file
        if int(place.read_text(encoding="ascii")) < _VOLUNTEER:
            place.write_text(str(_VOLUNTEER), encoding="ascii")


def note_counts(folder: RunFolder) -> None:
    """Keep the kernel's counts from before a worker starts, so that ``death`` can tell what came after."""
    folder.update_state(memory_kills=_counts(), stopped_at_once=False, exit_status=None)


def death(folder: RunFolder, exit_status: int | None) -> Death | None:
    """Return how the last worker of a run ended; None where its events tell, or it still lives.

    Args:
        folder: of the run.
        exit_status: of the worker's process, negative for a signal; None where this process did not start it.
    """
    if folder.worker_alive() or _told(folder):
        return None
    state = folder.state()
    exit_status = state.get("exit_status") if exit_status is None else exit_status
    if state.get("stopped_at_once"):
        return Death(NO, "was stopped at once, without a last word")
    if exit_status is not None and exit_status != -signal.SIGKILL:
        return Death(NO, f"ended without a word ({_status_words(exit_status)})")
    before = state.get("memory_kills") or {}
    if _in_kernel_log(int(state.get("pid") or 0), float(before.get("clock_s", 0.0))):
        found = Death(SURE, "was killed by the kernel's out-of-memory killer, as the kernel's log says")
    else:
        found = _by_counts(before, _counts())
    if found.memory == NO or _loaded(folder):
        return found
    return replace(found, words=f"{found.words}, before the model was loaded", loading=True)


def shrink(folder: RunFolder, found: Death) -> bool:
    """Tell by an ``oom_retry`` event that a run goes on with smaller parts of the same batch.

    Returns:
        Whether there was anything smaller; where not, nothing is told.
    """
    from ft_magic.planning.plans import Plan
    from ft_magic.planning.smaller import TRAIN, as_retried, change, given, smaller

    plan = as_retried(Plan.read(folder.plan), events.read(folder.events))
    less = smaller(plan, TRAIN)
    if less is None:
        return False
    latest = folder.latest_checkpoint()
    step = checkpoint_step(latest) if latest else 0
    writer = events.Writer(folder.events)
    writer.emit(
        "oom_retry",
        step=step,
        part=TRAIN,
        killed=True,
        micro_batch_size_before=plan.settings.micro_batch_size,
        micro_batch_size=less.settings.micro_batch_size,
        settings=given(less),
        message=f"the worker {found.words}: {change(plan, less)}.",
        fix=f"The batch stays the same; training goes on from step {step}.",
        error=found.words,
    )
    writer.close()
    return True


def _told(folder: RunFolder) -> bool:
    """Return whether the last worker told its end, or its death has been answered by ``shrink`` already."""
    last = None
    for event in events.of_kind(events.read(folder.events), *events.TERMINAL, "started", "oom_retry"):
        if event.kind != "oom_retry" or event.get("killed"):
            last = event
    return last is not None and last.kind != "started"


def _loaded(folder: RunFolder) -> bool:
    """Return whether the last worker had its model in memory."""
    found = list(events.of_kind(events.read(folder.events), "started", "loaded", "preflight", "step"))
    return bool(found) and found[-1].kind != "started"


def _counts() -> dict[str, Any]:
    return {"boot": hardware.boot_id(), "clock_s": time.monotonic()} | hardware.memory_kills()


def _by_counts(before: Mapping[str, Any], now: Mapping[str, Any]) -> Death:
    plain = "was killed (signal 9)"
    if before and before.get("boot") != now.get("boot"):
        return Death(NO, "was ended by a restart of the machine, or ran on another one")
    known = [where for where in _WHERE if where in before and where in now]
    if not known:
        return Death(UNKNOWN, f"{plain}, often because memory ran out; nothing here counts such ends")
    for where in known:
        if now[where] > before[where]:
            counted = (
                f"the kernel counts {now[where] - before[where]} more out-of-memory kills {_WHERE[where]}"
            )
            # A container counts its own processes alone; the machine's count may be another process's.
            return Death(
                SURE if where == "container" else LIKELY,
                f"was killed by the out-of-memory killer ({counted} since it started)",
            )
    return Death(NO, f"{plain}, and the kernel counts no out-of-memory kill since it started")


def _in_kernel_log(pid: int, since_s: float) -> bool:
    """Return whether the kernel's log, where it may be read, names a process as killed for memory.

    Args:
        pid: of the process.
        since_s: earlier records are of another process of this number; seconds of the monotonic clock.
    """
    wanted = re.compile(rb"^\d+,\d+,(\d+),[^;]*;.*Killed process %d \(" % pid)  # time in microseconds
    try:
        log = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        while True:
            with suppress(
                BrokenPipeError
            ):  # a record that was overwritten while it was read; the next one follows
                record = os.read(log, _LOG_BYTES)
                if not record:  # containers put an empty file in its place
                    return False
                found = wanted.search(record)
                if found and pid and int(found[1]) / 1e6 > since_s - _CLOCKS_DIFFER_S:
                    return True
    except OSError:  # the end of the log
        return False
    finally:
        os.close(log)


def _status_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
