"""Start a worker and follow its events from the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ft_magic import ahead, events, hardware, killed
from ft_magic.ahead import Ahead
from ft_magic.errors import RunError
from ft_magic.events import Event
from ft_magic.run_folder import RunFolder, checkpoint_step

_POLL_S = 0.2
_BEAT_S = 2.0
_WORDS_BYTES = 65536  # with less free on the disk, a worker may end without being able to say so
_MOST_RESTARTS = 2  # of a worker that memory ended: each halves what it computes at once
_REAP_S = 5.0  # how long a worker that has let go of its run may take to end
# Worker processes this kernel started; polled so that ended ones do not stay as zombies.
_children: dict[Path, subprocess.Popen[bytes]] = {}


class Display(Protocol):
    """Shows a run while it goes on."""

    def update(self, events: list[Event]) -> None:
        """Show what the new events changed."""

    def close(self, problem: str = "") -> None:
        """Show the final state, or what ended it without a word."""


def start(
    folder: RunFolder,
    *,
    python: str | None,
    environment: dict[str, str],
    detached: bool,
    waiting: Ahead | None = None,
) -> int:
    """Start the worker of a run in a session of its own and return its process id.

    The child is given the run's lock, so there is no moment in which nobody holds a run that is starting.

    Args:
        folder: of the run.
        python: interpreter; None = this one.
        environment: variables the plan asks for.
        detached: whether the run goes on when nobody follows it.
        waiting: a worker that has begun to import, taken where it suits.

    Raises:
        RunError: a worker already holds the run, or the interpreter cannot be started.
    """
    lock = folder.hold()
    interpreter = python or sys.executable
    variables = ahead.inherited(interpreter, environment)
    (folder.path / "control.json").unlink(missing_ok=True)  # requests to an earlier worker are over
    folder.update_state(status="planned", detached=detached)
    killed.note_counts(folder)
    if not detached:
        folder.beat()
    try:
        child = waiting.hand_over(folder.path, lock, interpreter, variables) if waiting else None
        child = child or _spawn(folder, lock, interpreter, variables)
    except OSError as error:
        raise RunError(
            f"the worker's interpreter {python} cannot be started: {error}.", "Check python: ..."
        ) from error
    finally:
        os.close(lock)
    _children[folder.path] = child
    folder.update_state(pid=child.pid)
    return child.pid


def _spawn(
    folder: RunFolder, lock: int, interpreter: str, variables: dict[str, str]
) -> subprocess.Popen[bytes]:
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            [interpreter, "-m", "ft_magic.worker", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
            pass_fds=(lock,),
        )


def follow(
    folder: RunFolder,
    display: Display,
    *,
    say: Callable[[str], None] = print,
) -> str:
    """Show a run's events until it ends and return its status.

    The first interrupt asks the worker to finish its step and save; a second one stops it at once. A worker that the
    kernel ended for want of memory is started again with smaller parts of the same batch, at most twice.

    Raises:
        RunError: the run failed or its worker was killed; the message has the reason and the way on.
    """
    feed, interrupts, restarts = _Feed(folder, display), 0, 0
    try:
        while True:
            try:
                feed.until_end()
                if interrupts or restarts == _MOST_RESTARTS or not _restarted(folder):
                    break
                restarts += 1
            except KeyboardInterrupt:
                interrupts += 1
                if interrupts == 1:
                    folder.ask("stop")
                    say(
                        "Stopping: the step is finished and a checkpoint saved. Interrupt again to stop at once."
                    )
                else:
                    stop_now(folder)
    finally:
        display.close(_silent_end(folder))
    if folder.path in _children:
        folder.update_state(exit_status=_exit_status(folder))
        del _children[folder.path]
    status = folder.status()
    if status == "failed":
        raise failure(folder)
    return status


def _restarted(folder: RunFolder) -> bool:
    """Start a worker again that memory ended, with smaller parts of its batch; return whether that was so."""
    from ft_magic.planning.plans import Plan

    found = killed.death(folder, _exit_status(folder))
    known = found is not None and found.shrinks and found.memory != killed.UNKNOWN
    if found is None or not known or not killed.shrink(folder, found):
        return False
    plan, detached = Plan.read(folder.plan), bool(folder.state().get("detached"))
    start(folder, python=plan.spec.python, environment=dict(plan.environment), detached=detached)
    return True


def prepare_resume(folder: RunFolder) -> None:
    """Take smaller parts of the batch where memory ended the last worker of a run, or most likely did."""
    found = killed.death(folder, _exit_status(folder))
    if found is not None and found.shrinks:
        killed.shrink(folder, found)  # where nothing smaller is left, the same may fit by now


def _exit_status(folder: RunFolder) -> int | None:
    """Return the exit status of a worker that has let go of its run; None where another process started it."""
    child = _children.get(folder.path)
    try:
        return child.wait(_REAP_S) if child is not None else None
    except subprocess.TimeoutExpired:
        return None


class _Feed:
    """Passes each event on once, also when an interrupt comes in between."""

    def __init__(self, folder: RunFolder, display: Display) -> None:
        self._folder, self._display = folder, display
        self._reader, self._pending, self._beat_at = events.Reader(folder.events), list[Event](), 0.0

    def until_end(self) -> None:
        """Pass on events until the worker is gone."""
        alive = True
        while alive:
            alive = self._folder.worker_alive()
            self._pending += self._reader.new()
            self._display.update(list(self._pending))
            self._pending.clear()
            if time.monotonic() - self._beat_at > _BEAT_S and not self._folder.state().get("detached"):
                self._folder.beat()
                self._beat_at = time.monotonic()
            if alive:
                time.sleep(_POLL_S)


def _last_word(folder: RunFolder) -> Event | None:
    """Return how the last worker ended, or its start where it ended without a word; None before any start."""
    telling = events.of_kind(events.read(folder.events), *events.TERMINAL, "started")
    return next(reversed(list(telling)), None)


def _silent_end(folder: RunFolder) -> str:
    """Return what to show for a worker that ended without telling how, else an empty string."""
    found = killed.death(folder, _exit_status(folder)) if not folder.worker_alive() else None
    return f"the worker {found.words}; %ft resume {folder.path.name} goes on" if found else ""


def stop_now(folder: RunFolder, *, patience_s: float = 10.0) -> None:
    """End a worker at once: SIGTERM, then SIGKILL when it does not go; complete checkpoints stay."""
    pid = int(folder.state().get("pid") or 0)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + patience_s
        if sign == signal.SIGKILL:
            folder.update_state(stopped_at_once=True)
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return
        while folder.worker_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if not folder.worker_alive():
            if sign == signal.SIGTERM:
                _tell_stopped(folder)
            return


def _tell_stopped(folder: RunFolder) -> None:
    """Write down the end of a worker that was stopped while its interpreter started, too early to do so itself."""
    if folder.state().get("status") not in ("planned", "running"):
        return
    checkpoint = folder.latest_checkpoint()
    writer = events.Writer(folder.events)
    writer.emit(
        "stopped",
        step=checkpoint_step(checkpoint) if checkpoint else 0,
        reason="stopped at once",
        seconds=0.0,
    )
    writer.close()
    folder.update_state(status="stopped")


def failure(folder: RunFolder) -> RunError:
    """Return the error of a failed run: its own words, or the last lines of its log when it was killed."""
    name = folder.path.name
    last = _last_word(folder)
    if last is not None and last.kind == "failed":
        advice = last.get("advice") or ""
        return RunError(f"run {name} failed: {last.get('message')}", f"{advice}\nLog: {folder.log}".strip())
    checkpoint = folder.latest_checkpoint()
    kept = f"{checkpoint.name} is intact" if checkpoint else "there was no checkpoint yet"
    lines = tail(folder.log, 3)
    seen = "\nLast log lines:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
    if hardware.disk_free_bytes(folder.path) < _WORDS_BYTES:
        return RunError(
            f"the worker of run {name} ended without a word, because the disk is full; {kept}.",
            f"Free space, then %ft resume {name}.{seen}",
        )
    found = killed.death(folder, _exit_status(folder))
    return RunError(
        f"the worker of run {name} {found.words if found else 'was killed'}; {kept}.",
        f"{_way_on(name, found)}{seen}",
    )


def _way_on(name: str, found: killed.Death | None) -> str:
    if found is not None and found.loading:
        return f"Free memory or take update: qlora or a smaller model; then %ft resume {name} goes on."
    less = ", which takes smaller parts of the same batch" if found is not None and found.shrinks else ""
    return f"Go on with %ft resume {name}{less}."


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file that are not empty; none where there is no file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-lines:]
