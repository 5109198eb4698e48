"""Start a worker and follow its events from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ft_magic import events, hardware
from ft_magic.errors import RunError
from ft_magic.events import Event
from ft_magic.run_folder import RunFolder

_POLL_S = 0.2
_BEAT_S = 2.0
_WORDS_BYTES = 65536  # with less free on the disk, a worker may end without being able to say so
_REAP_S = 5.0  # how long a worker that has let go of its run may take to end
# Worker processes this kernel started; polled so that ended ones do not stay as zombies.
_children: dict[Path, subprocess.Popen[bytes]] = {}


class Display(Protocol):
    """Shows a run while it goes on."""

    def update(self, events: list[Event]) -> None:
        """Show what the new events changed."""

    def close(self, problem: str = "") -> None:
        """Show the final state, or what ended it without a word."""


def start(folder: RunFolder, *, python: str | None, environment: dict[str, str], detached: bool) -> int:
    """Start the worker of a run in a session of its own and return its process id.

    The child inherits the run's lock, so there is no moment in which nobody holds a run that is starting.

    Raises:
        RunError: a worker already holds the run, or the interpreter cannot be started.
    """
    lock = folder.hold()
    inherited = os.environ | environment
    if python:
        # Another environment may not have ft_magic installed; it finds this copy.
        inherited["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    (folder.path / "control.json").unlink(missing_ok=True)  # requests to an earlier worker are over
    folder.update_state(status="planned", detached=detached)
    if not detached:
        folder.beat()
    try:
        with folder.log.open("ab") as log:
            child = subprocess.Popen(
                [python or sys.executable, "-m", "ft_magic.worker", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=inherited,
                start_new_session=True,
                pass_fds=(lock,),
            )
    except OSError as error:
        raise RunError(
            f"the worker's interpreter {python} cannot be started: {error}.", "Check python: ..."
        ) from error
    finally:
        os.close(lock)
    _children[folder.path] = child
    folder.update_state(pid=child.pid)
    return child.pid


def follow(
    folder: RunFolder,
    display: Display,
    *,
    say: Callable[[str], None] = print,
) -> str:
    """Show a run's events until it ends and return its status.

    The first interrupt asks the worker to finish its step and save; a second one stops it at once.

    Raises:
        RunError: the run failed or its worker was killed; the message has the reason and the way on.
    """
    feed, interrupts = _Feed(folder, display), 0
    try:
        while True:
            try:
                feed.until_end()
                break
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
        _children.pop(folder.path).wait(_REAP_S)
    status = folder.status()
    if status == "failed":
        raise failure(folder)
    return status


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
    told = _last_word(folder)
    if folder.worker_alive() or (told is not None and told.kind in events.TERMINAL):
        return ""
    return f"the worker was killed; %ft resume {folder.path.name} goes on"


def stop_now(folder: RunFolder, *, patience_s: float = 10.0) -> None:
    """End a worker at once: SIGTERM, then SIGKILL when it does not go; complete checkpoints stay."""
    pid = int(folder.state().get("pid") or 0)
    for sign in (15, 9):
        deadline = time.monotonic() + patience_s
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return
        while folder.worker_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if not folder.worker_alive():
            return


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
    return RunError(
        f"the worker of run {name} was killed (often the system ran out of memory); {kept}.",
        f"Go on with %ft resume {name}.{seen}",
    )


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file that are not empty; none where there is no file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-lines:]
