"""Backends: the seam to the engines that train. Each is a module with one function, ``train``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ft_magic.events import Event
from ft_magic.planning.plans import Plan
from ft_magic.run_folder import RunFolder

PARTIAL = (
    ".partial"  # beside complete checkpoints: what a trainer is writing; renamed into place when it is whole
)
Emit = Callable[..., Event]


@dataclass(frozen=True)
class Job:
    """One training to do.

    Attributes:
        folder: the run folder.
        plan: what to do, every number decided.
        checkpoint: complete checkpoint to go on from, or None for a fresh start.
        detached: whether the run goes on when nobody follows it.
    """

    folder: RunFolder
    plan: Plan
    checkpoint: Path | None
    detached: bool


@dataclass(frozen=True)
class Outcome:
    """How a training ended: ``finished`` or ``stopped``, at which step, and why it stopped."""

    status: str
    step: int
    reason: str = ""


class Backend(Protocol):
    """An engine that trains."""

    def train(self, job: Job, emit: Emit) -> Outcome:
        """Train, telling every event through ``emit``, and leave the result in the run folder."""


def load(name: str) -> Backend:
    """Import a backend in the worker process."""
    return cast("Backend", importlib.import_module(f"ft_magic.backends.{name}"))
