"""A folder that is made once: built beside its final place, then renamed, by one process at a time."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ft_magic.errors import ModelError
from ft_magic.progress import Progress, silent

STAMP_NAME = "ft_magic.json"  # what the folder was made from; written last, inside the folder


def cached_folder(
    target: Path,
    stamp: Mapping[str, str | int],
    build: Callable[[Path], None],
    *,
    needed_bytes: int,
    progress: Progress = silent,
) -> Path:
    """Return ``target``; where it is missing or has another stamp, call ``build(temporary_folder)`` first.

    The build happens in a temporary folder beside ``target``, which gets its final name by one rename: a
    folder under its final name is whole. A lock lets a second process wait and use the first one's result.
    What an interrupted attempt left is removed by the next one.

    Raises:
        ModelError: the disk has fewer than ``needed_bytes`` free, or the folder cannot be written.
    """
    if _is_current(target, stamp):
        return target
    _make_parent(target)
    with _locked(target.with_name(f".{target.name}.lock"), target.name, progress):
        if _is_current(target, stamp):  # made by the process we waited for
            return target
        _remove_leftovers(target)
        _check_space(target, needed_bytes)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=_prefix(target)) as scratch:
            made = Path(scratch) / "folder"
            made.mkdir()
            build(made)
            (made / STAMP_NAME).write_text(json.dumps(dict(stamp), indent=1) + "\n", encoding="utf-8")
            if target.exists():  # an older recipe's folder
                target.replace(Path(scratch) / "old")
            made.replace(target)
    return target


def _is_current(target: Path, stamp: Mapping[str, str | int]) -> bool:
    try:
        return bool(json.loads((target / STAMP_NAME).read_text(encoding="utf-8")) == dict(stamp))
    except (OSError, ValueError):
        return False


def _make_parent(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"'{target.parent}' cannot be made ({error.strerror}), so '{target.name}' has no place to go.",
            "Set FT_MAGIC_CACHE to a folder you can write to.",
        ) from error


def _prefix(target: Path) -> str:
    return f".{target.name}.building-"


def _remove_leftovers(target: Path) -> None:
    """Remove folders of interrupted attempts; safe because the lock says that nobody else is building."""
    for leftover in target.parent.glob(f"{_prefix(target)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_space(target: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes:
        raise ModelError(
            f"Making '{target.name}' needs {needed_bytes / 2**20:.0f} MiB in '{target.parent}', "
            f"which has {free_bytes / 2**20:.0f} MiB free.",
            "Free some space, or set FT_MAGIC_CACHE to a folder on a larger disk.",
        )


@contextmanager
def _locked(path: Path, name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock file; the operating system releases it when the process dies, however it dies."""
    try:
        file = path.open("a+b")
    except OSError as error:
        raise ModelError(
            f"'{path.parent}' cannot be written to ({error.strerror}), so '{name}' has no place to go.",
            "Set FT_MAGIC_CACHE to a folder you can write to.",
        ) from error
    with file:
        while not _try_lock(file):
            progress(f"waiting for another process that prepares {name}", 0, 0)
            time.sleep(0.2)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    """Take the lock without waiting; return whether it was free."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
