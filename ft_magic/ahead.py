"""A worker that imports its libraries while the kernel still reads data, checks the template and plans.

Importing torch, transformers and trl takes seconds and needs nothing of the plan but the environment. The process
waits at a socket; ``hand_over`` sends it the run's folder and lock, and it goes on as any other worker. Where the plan
turns out to need another interpreter or environment, it is ended, and a new one starts.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ft_magic import hardware
from ft_magic.process_environment import process_environment

_OPTION = "--ahead"
_PATH_BYTES = 4096  # Linux's limit of a path
_imports: threading.Thread | None = None


@dataclass(frozen=True)
class Ahead:
    """A worker that has no run yet.

    Attributes:
        process: the worker.
        line: where it waits.
        python: its interpreter.
        environment: its variables.
    """

    process: subprocess.Popen[bytes]
    line: socket.socket
    python: str
    environment: Mapping[str, str]

    def hand_over(
        self, folder: Path, lock: int, python: str, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | None:
        """Give the worker its run and return its process; None where it is not the worker this run needs.

        Args:
            folder: of the run.
            lock: open file that holds the run.
            python: interpreter the run needs.
            environment: variables the run needs.
        """
        if (python, dict(environment)) != (
            self.python,
            dict(self.environment),
        ) or self.process.poll() is not None:
            return None
        try:
            socket.send_fds(self.line, [os.fsencode(folder)], [lock])
        except OSError:
            return None
        self.line.close()
        return self.process


@contextmanager
def importing(spec: Mapping[str, Any], machine: hardware.Hardware) -> Iterator[Ahead | None]:
    """Start a worker for what was asked, as far as that can be told yet; it ends unless it was given a run."""
    python = spec.get("python")
    module = _module(str(spec.get("backend", "auto")), gpus=bool(machine.gpus))
    worker = (
        _begin(python if isinstance(python, str) else sys.executable, module, machine) if module else None
    )
    try:
        yield worker
    finally:
        if worker is not None and worker.line.fileno() >= 0:
            worker.line.close()
            worker.process.kill()
            worker.process.wait()


def _module(backend: str, *, gpus: bool) -> str:
    """Return the module to import first; empty where nothing heavy will run."""
    if backend in ("trl", "unsloth", "ppo"):
        return f"ft_magic.backends.{backend}"
    if backend != "auto":
        return ""
    # Unsloth must come before trl, and only the plan knows which it will be.
    return "torch" if gpus and find_spec("unsloth") is not None else "ft_magic.backends.trl"


def _begin(python: str, module: str, machine: hardware.Hardware) -> Ahead | None:
    device = "cuda" if machine.gpus else "cpu"
    environment = inherited(python, process_environment(device, hardware.threads(machine)))
    mine, its = socket.socketpair()
    try:
        process = subprocess.Popen(
            [python, "-m", "ft_magic.worker", _OPTION, str(its.fileno()), module],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            pass_fds=(its.fileno(),),
        )
    except OSError:
        mine.close()
        return None  # starting the run meets the same, and says so
    finally:
        its.close()
    return Ahead(process, mine, python, environment)


def inherited(python: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return all variables of a worker: this process's and the plan's."""
    found = os.environ | dict(environment)
    if python != sys.executable:
        # Another environment may not have ft_magic installed; it finds this copy.
        found["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    return found


def run_folder_of(arguments: list[str]) -> Path | None:
    """Return the run folder a worker was started with, or is given after its imports; None where none comes.

    Args:
        arguments: of ``python -m ft_magic.worker``.
    """
    if arguments[0] != _OPTION:
        return Path(arguments[0]).absolute()
    global _imports  # noqa: PLW0603  one worker a process
    _imports = threading.Thread(target=_import, args=(arguments[2],), daemon=True)
    _imports.start()
    with socket.socket(fileno=int(arguments[1])) as line:
        given, _lock, _, _ = socket.recv_fds(line, _PATH_BYTES, 1)
    if not given:
        return None
    folder = Path(os.fsdecode(given))
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    return folder


def _import(module: str) -> None:
    with suppress(Exception):  # training meets it again, where it can be told
        import_module(module)


def settle() -> None:
    """Wait until what this worker imports ahead is there: two threads that import at once may see halves of modules."""
    if _imports is not None:
        _imports.join()  # a signal still ends the process at once
