"""The process that trains: ``python -m ft_magic.worker RUN_FOLDER``.

It reads the plan, goes on from the latest complete checkpoint if there is one, and tells everything through the
events file. It never shows anything: its standard output is the run's log.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import IO

from ft_magic import atomic, backends, events, packages
from ft_magic.backends import Emit, Job, Outcome
from ft_magic.errors import FTError
from ft_magic.paths import cache_dir
from ft_magic.planning.plans import Plan
from ft_magic.run_folder import RunFolder, checkpoint_step

_VERSIONED = (
    "ft-magic",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "unsloth",
)
_LOCK_POLL_S = 1.0


class StopNow(BaseException):
    """Raised by SIGTERM: end at once, keep the last checkpoint."""


def main(arguments: list[str]) -> int:
    """Train the run in the given folder and return the exit status."""
    folder = RunFolder(Path(arguments[0]).absolute())
    writer = events.Writer(folder.events)
    signal.signal(signal.SIGTERM, _stop_now)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a stop button reaches the follower, which asks in writing
    versions = packages.versions_of(_VERSIONED)
    atomic.write_json(folder.path / "versions.json", versions)
    folder.update_state(pid=os.getpid(), status="running", versions=versions)
    try:
        outcome = _train(folder, writer.emit)
    except StopNow:
        return _ended(folder, writer, "stopped", step=_last_step(folder), reason="stopped at once")
    except BaseException as error:  # noqa: BLE001  the run's record must say how every failure ended
        traceback.print_exc()
        message, advice = _explain(error)
        _ended(folder, writer, "failed", message=message, advice=advice, log=str(folder.log))
        return 1
    if outcome.status == "stopped":
        return _ended(folder, writer, "stopped", step=outcome.step, reason=outcome.reason)
    result = folder.adapter if folder.adapter.exists() else folder.model
    return _ended(folder, writer, "finished", step=outcome.step, path=result.name)


def _train(folder: RunFolder, emit: Emit) -> Outcome:
    plan = Plan.read(folder.plan)
    checkpoint = folder.latest_checkpoint()
    emit(
        "started",
        pid=os.getpid(),
        resumed_from=checkpoint_step(checkpoint) if checkpoint else None,
    )
    detached = bool(folder.state().get("detached"))
    with _device(plan.settings.device, folder, emit):
        job = Job(folder=folder, plan=plan, checkpoint=checkpoint, detached=detached)
        return backends.load(plan.settings.backend).train(job, emit)


def _device(name: str, folder: RunFolder, emit: Emit) -> IO[str]:
    """Wait until no other run trains on the device; the open file returned holds it."""
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    file = (locks / f"{name}.lock").open("a+", encoding="utf-8")
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if not told:
                file.seek(0)
                holder = file.read().strip() or "another run"
                emit(
                    "warning", message=f"{holder} trains on this {name}.", fix="This run starts when it ends."
                )
                told = True
        request = folder.asked()
        abandoned = folder.followers_gone() and not folder.state().get("detached")
        if abandoned or (request and request[0] == "stop"):
            raise StopNow
        time.sleep(_LOCK_POLL_S)
    file.truncate(0)
    file.write(folder.path.name)
    file.flush()
    return file


def _ended(folder: RunFolder, writer: events.Writer, status: str, **fields: object) -> int:
    started = next((event.t for event in events.read(folder.events) if event.kind == "started"), time.time())
    writer.emit(status, seconds=round(time.time() - started, 1), **fields)
    folder.update_state(status=status)
    return 0


def _explain(error: BaseException) -> tuple[str, str]:
    """Return one line on what failed and one on what to do."""
    if isinstance(error, FTError):
        return error.problem, error.instead
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "out of memory" in text:
        return text, "Lower micro_batch_size or max_length, or set gradient_checkpointing: true."
    if isinstance(error, ImportError):
        return text, 'Install what training needs: pip install "ft-magic[train]".'
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        return text, "The disk is full: free space, then %ft resume; complete checkpoints are intact."
    return text, "The whole traceback is in the log: %ft logs."


def _last_step(folder: RunFolder) -> int:
    checkpoint = folder.latest_checkpoint()
    return checkpoint_step(checkpoint) if checkpoint else 0


def _stop_now(_: int, __: FrameType | None) -> None:
    raise StopNow


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
