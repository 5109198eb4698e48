"""Where ft_magic keeps what it caches and what it makes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for downloads and prepared models: ``FT_MAGIC_CACHE``, else the user cache folder."""
    if given := os.environ.get("FT_MAGIC_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ft_magic"


def runs_dir() -> Path:
    """Return the folder that holds run folders: ``FT_MAGIC_RUNS``, else ``ft_runs`` in the working folder."""
    return Path(os.environ.get("FT_MAGIC_RUNS") or "ft_runs").absolute()


def from_here(path: Path) -> Path:
    """Return a path relative to the working folder where it lies below it: shorter to read and to copy."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
