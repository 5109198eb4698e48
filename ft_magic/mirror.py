"""A copy of a run folder elsewhere, kept up to date while the run goes on: a mounted drive, Kaggle's output.

What lies in the mirror is a run folder like any other: open it and go on. Each file and each checkpoint stands there
whole or not at all; what has not changed is not copied again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ft_magic import atomic
from ft_magic.backends import Emit
from ft_magic.events import Event
from ft_magic.run_folder import RunFolder

# What a run is made of; locks, requests and heartbeats belong to one machine, exports can be made again.
_FILES = (
    "spec.yaml",
    "plan.json",
    "versions.json",
    "rewards.py",
    "rewards.json",
    "log.txt",
    "events.jsonl",
    "run.json",
)
_WHOLE = ("adapter", "model")  # written once, each in one piece
_EVERY_S = 60.0  # between copies of the small files while nothing is saved
_SAVING = (
    "started",
    "checkpoint",
    "stopped",
    "failed",
    "finished",
)  # events after which everything is copied


@dataclass
class Mirror:
    """The copy of one run.

    Attributes:
        source: the run folder.
        target: folder of its copy.
        emit: where the warning goes, should copying fail.
        clock: seconds that never go back.
    """

    source: RunFolder
    target: Path
    emit: Emit
    clock: Callable[[], float] = time.monotonic
    warned: bool = False
    copied_t: float = field(default=-_EVERY_S)

    @classmethod
    def of(cls, folder: RunFolder, into: str | None, emit: Emit) -> Mirror | None:
        """Return the mirror of a run in a folder of mirrors; None where none is asked for, or the run lies there."""
        if not into:
            return None
        target = Path(into) / folder.path.name
        return None if target.resolve() == folder.path.resolve() else cls(folder, target, emit)

    def told(self, kind: str) -> None:
        """Copy what an event of this kind may have changed."""
        if kind in _SAVING:
            self.update()
        elif self.clock() - self.copied_t >= _EVERY_S:
            self.update(small=True)

    def update(self, *, small: bool = False) -> None:
        """Copy what changed; a failure is told once and tried again next time.

        Args:
            small: leave out checkpoints and results.
        """
        self.copied_t = self.clock()
        try:
            self._copy(small=small)
        except OSError as error:
            if not self.warned:
                self.warned = True
                self.emit(
                    "warning",
                    message=f"the mirror {self.target} could not be written: {error.strerror or error}.",
                    fix="Training goes on without it, and tries again with the next checkpoint.",
                )

    def _copy(self, *, small: bool) -> None:
        self.target.mkdir(parents=True, exist_ok=True)
        if not small:
            self._copy_tree("data")
            for name in _WHOLE:
                _copy_whole(self.source.path / name, self.target / name)
            self._copy_checkpoints()
        # Last, so that what they tell of is there already.
        for name in _FILES:
            _copy_file(self.source.path / name, self.target / name)

    def _copy_tree(self, name: str) -> None:
        for file in sorted((self.source.path / name).rglob("*")):
            if file.is_file():
                _copy_file(file, self.target / file.relative_to(self.source.path))

    def _copy_checkpoints(self) -> None:
        """Copy new checkpoints, then drop those the run has dropped."""
        (self.target / "checkpoints").mkdir(exist_ok=True)
        for half in self.target.glob("checkpoints/.checkpoint-*.tmp"):  # of a worker that was killed
            shutil.rmtree(half, ignore_errors=True)
        kept = {path.name: path for path in self.source.checkpoints.glob("checkpoint-*")}
        for name, path in kept.items():
            _copy_whole(path, self.target / "checkpoints" / name)
        for old in (self.target / "checkpoints").glob("checkpoint-*"):
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)


def mirrored(emit: Emit, mirror: Mirror | None) -> Emit:
    """Return ``emit`` with the mirror brought up to date after each event."""
    if mirror is None:
        return emit

    def told(kind: str, **fields: object) -> Event:
        event = emit(kind, **fields)
        mirror.told(kind)
        return event

    return told


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file under its final name in one step, unless size and time say that it is there."""
    try:
        found = source.stat()
    except FileNotFoundError:
        return
    if target.exists():
        there = target.stat()
        # Mounted drives may keep whole seconds alone; a log that grows within one changes its size.
        if there.st_size == found.st_size and int(there.st_mtime) == int(found.st_mtime):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        os.utime(temporary, (found.st_atime, found.st_mtime))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder that never changes, unless it is there with files of the same sizes."""
    if not source.exists() or _sizes(source) == _sizes(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(target) as temporary:
        for file in sorted(source.rglob("*")):
            place = temporary / file.relative_to(source)
            if file.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                shutil.copyfile(file, place)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()
    }
