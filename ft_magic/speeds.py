"""How fast earlier runs were on this machine: one small file in the cache, read by plans."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ft_magic import atomic, events
from ft_magic.paths import cache_dir
from ft_magic.planning.eta import Speed, learned
from ft_magic.planning.plans import Plan
from ft_magic.run_folder import RunFolder

_MOST = 200  # kinds of runs remembered; the oldest go first


def read() -> Mapping[str, Speed]:
    """Return the speeds remembered; nothing where there is no file, or none that can be read."""
    found: dict[str, Speed] = {}
    with suppress(OSError, ValueError, AttributeError):
        for name, fields in json.loads(_file().read_text(encoding="utf-8")).items():
            with suppress(TypeError):  # written by another version
                found[name] = Speed(**fields)
    return found


def learn(folder: RunFolder) -> None:
    """Remember how fast a run's last session was; a cache that cannot be written is no reason to fail."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        plan = Plan.read(folder.plan)
        speed = learned(plan, folder.path.name, events.read(folder.events))
        if speed is not None and plan.speed_key:
            _remember(plan.speed_key, speed)


def _remember(key: str, speed: Speed) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / "speeds.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {name: asdict(found) for name, found in read().items() if name != key}
        known[key] = asdict(speed)
        atomic.write_json(file, dict(list(known.items())[-_MOST:]))


def _file() -> Path:
    return cache_dir() / "speeds.json"
