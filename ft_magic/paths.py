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
