"""A full disk: how it shows, and a little room kept back for saying so."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_KEPT_BACK_BYTES = 65536  # the last events, the state of a run and the end of its log take a few thousand
# How writers without an errno say it: safetensors (Rust), torch's zip writer (its own words), tokenizers.
_WORDS = ("No space left on device", "os error 28", "file write failed", "PytorchStreamWriter failed")


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or what caused or preceded it, says that the disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def room_kept_back(folder: Path) -> Iterator[Path]:
    """Hold a little room on the disk of a folder until the block ends or the file given is removed."""
    held = folder / ".room"
    with suppress(OSError):
        descriptor = os.open(held, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, _KEPT_BACK_BYTES)
        finally:
            os.close(descriptor)
    try:
        yield held
    finally:
        with suppress(OSError):
            held.unlink()
