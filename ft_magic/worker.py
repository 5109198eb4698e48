"""The process that trains: ``python -m ft_magic.worker RUN_FOLDER``.

It reads the plan, goes on from the latest complete checkpoint if there is one, and tells everything through the
events file. It never shows anything: its standard output is the run's log.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ft_magic import ahead, atomic, events, killed, models, packages, speeds
from ft_magic.backends import PARTIAL, Emit, Job, Outcome, recovery, shortage
from ft_magic.disk import is_disk_full, room_kept_back
from ft_magic.errors import FTError
from ft_magic.hardware import disk_free_bytes
from ft_magic.mirror import Mirror, mirrored
from ft_magic.paths import cache_dir
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import as_retried
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
    early: list[int] = []  # asked to end before there was anything to end: said when it can be recorded
    signal.signal(signal.SIGTERM, lambda number, _: early.append(number))
    given = ahead.run_folder_of(arguments)
    if given is None:
        return 0
    folder = RunFolder(given)
    writer = events.Writer(folder.events)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a stop button reaches the follower, which asks in writing
    killed.volunteer()
    versions = packages.versions_of(_VERSIONED)
    atomic.write_json(folder.path / "versions.json", versions)
    folder.update_state(pid=os.getpid(), status="running", versions=versions)
    mirror = _mirror_of(folder, writer.emit)
    with room_kept_back(folder.path) as room:
        status, fields = _trained(folder, mirrored(writer.emit, mirror), room, early)
        with suppress(OSError):  # a disk that is full to the last byte: the follower sees that
            _ended(folder, writer, status, **fields)
        if status != "failed":
            speeds.learn(folder)
    if mirror is not None:
        mirror.update()
    return int(status == "failed")


def _trained(folder: RunFolder, emit: Emit, room: Path, early: list[int]) -> tuple[str, dict[str, Any]]:
    """Train and return how it ended: a terminal event's kind and fields.

    Args:
        folder: of the run.
        emit: where events go.
        room: file that keeps a little room on the disk; removed when something fails, so that it can be told.
        early: signals that asked to end and were not heeded yet.
    """
    try:
        signal.signal(signal.SIGTERM, _stop_now)
        if early:
            raise StopNow
        outcome = _train(folder, emit)
    except StopNow:
        return "stopped", {"step": _last_step(folder), "reason": "stopped at once"}
    except BaseException as error:  # noqa: BLE001  the run's record must say how every failure ended
        shutil.rmtree(
            folder.checkpoints / PARTIAL, ignore_errors=True
        )  # half a checkpoint may have filled the disk
        room.unlink(missing_ok=True)
        with suppress(OSError):  # the log may be on a disk that is still full
            traceback.print_exc()
        message, advice = _explain(error, folder)
        return "failed", {"message": message, "advice": advice, "log": str(folder.log)}
    if outcome.status == "stopped":
        return "stopped", {"step": outcome.step, "reason": outcome.reason}
    result = folder.adapter if folder.adapter.exists() else folder.model
    return "finished", {"step": outcome.step, "path": result.name}


def _mirror_of(folder: RunFolder, emit: Emit) -> Mirror | None:
    try:
        plan = Plan.read(folder.plan)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # training reads it too, and says what is wrong with it
    return Mirror.of(folder, plan.spec.mirror, emit)


def _train(folder: RunFolder, emit: Emit) -> Outcome:
    plan = as_retried(_plan(folder), events.read(folder.events))
    checkpoint = folder.latest_checkpoint()
    emit(
        "started",
        pid=os.getpid(),
        resumed_from=checkpoint_step(checkpoint) if checkpoint else None,
    )
    detached = bool(folder.state().get("detached"))
    ahead.settle()
    with _device(plan.settings.device, folder, emit):
        job = Job(folder=folder, plan=plan, checkpoint=checkpoint, detached=detached)
        return recovery.train(job, emit)


def _plan(folder: RunFolder) -> Plan:
    """Return the run's plan; where its model has gone (another machine's cache), with the model found anew."""
    plan = Plan.read(folder.plan)
    if not Path(plan.model_folder).is_dir():
        plan = replace(plan, model_folder=str(models.resolve(plan.spec.model)))
        atomic.write_json(folder.plan, plan.to_dict())
    return plan


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


def _ended(folder: RunFolder, writer: events.Writer, status: str, **fields: object) -> None:
    started = next((event.t for event in events.read(folder.events) if event.kind == "started"), time.time())
    writer.emit(status, seconds=round(time.time() - started, 1), **fields)
    folder.update_state(status=status)


def _explain(error: BaseException, folder: RunFolder) -> tuple[str, str]:
    """Return one line on what failed and one on what to do."""
    if isinstance(error, FTError):
        return error.problem, error.instead
    text = shortage.one_line(error)
    if is_disk_full(error):
        kept = _last_step(folder)
        place = f"the checkpoint of step {kept} is" if kept else "events and data are"
        free = disk_free_bytes(folder.path)
        return (
            f"the disk of {folder.path.parent} is full ({free / 1e9:.2f} GB free): {text}",
            f"Nothing written before is lost: {place} intact. Free space, then %ft resume.",
        )
    if shortage.is_shortage(error):
        return text, "Lower micro_batch_size or max_length, or set gradient_checkpointing: true."
    if isinstance(error, ImportError):
        return text, 'Install what training needs: pip install "ft-magic[train]".'
    return text, "The whole traceback is in the log: %ft logs."


def _last_step(folder: RunFolder) -> int:
    checkpoint = folder.latest_checkpoint()
    return checkpoint_step(checkpoint) if checkpoint else 0


def _stop_now(_: int, __: FrameType | None) -> None:
    raise StopNow


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
