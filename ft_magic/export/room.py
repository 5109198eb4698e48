"""Room on the disk, asked for before work begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from ft_magic.errors import ExportError


def check_room(folder: Path, needed_bytes: float, what: str) -> None:
    """Make ``folder`` if it is missing, and check that ``what`` fits on its disk.

    Raises:
        ExportError: it does not fit, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"'{folder}' cannot be made: {error.strerror}.", "Give a folder you can write to."
        ) from error
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ExportError(
            f"{what} needs {needed_bytes / 1e9:.2f} GB, '{folder}' has {free_bytes / 1e9:.2f} GB left.",
            "Free some room, or write to another folder (on Kaggle /tmp has the most).",
        )
