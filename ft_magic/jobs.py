"""Heavy work outside the kernel: one process that stays warm, so that a second question answers at once.

``call`` runs a job there and passes its progress on. The process ends by itself after ten idle minutes, when the
kernel ends, or by ``unload``.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any, cast

from ft_magic import errors
from ft_magic.errors import FTError, RunError
from ft_magic.progress import Progress, silent

# Job names and the functions that do them, imported in the process alone.
JOBS: Mapping[str, str] = {
    "evaluate": "ft_magic.evaluate.heldout:evaluate_job",
    "generate": "ft_magic.evaluate.generate:generate_job",
    "score": "ft_magic.evaluate.scorer:score_job",
    "judge": "ft_magic.judging.replies:judge_job",
    "write": "ft_magic.synthesis.local:write_job",
    "advise": "ft_magic.advising.probe:probe_job",
    "merge": "ft_magic.export.job:merge_job",
    "export": "ft_magic.export.job:export_job",
}


class WarmProcess:
    """The process on the other end of two pipes; one JSON line is one message."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  lives as long
        self._child = subprocess.Popen(
            [sys.executable, "-m", "ft_magic.jobserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | dict(environment),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._child.poll() is None

    def call(self, job: str, arguments: Mapping[str, Any], progress: Progress) -> Any:
        """Run a job and return its JSON result.

        Raises:
            FTError: the job's own error, or ``RunError`` when the process died.
        """
        try:
            print(
                json.dumps({"job": job, "arguments": arguments}),
                file=self._pipe(self._child.stdin),
                flush=True,
            )
            for line in self._pipe(self._child.stdout):
                message = json.loads(line)
                if "progress" in message:
                    progress(*message["progress"])
                elif "error" in message:
                    raise _rebuilt(message["error"])
                else:
                    return message["result"]
        except BrokenPipeError:
            pass
        except BaseException as error:
            if not isinstance(error, FTError):
                self.close()  # an interrupt leaves the job half done: the next call starts a fresh process
            raise
        raise self._death(job)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        return cast("IO[str]", pipe)

    def _death(self, job: str) -> RunError:
        self.close()
        self._log.seek(0)
        lines = [line.rstrip() for line in self._log if line.strip()][-3:]
        return RunError(
            f"the process doing '{job}' died (often the system ran out of memory).",
            "Try again; its last words:\n" + "\n".join(f"  {line}" for line in lines),
        )

    def close(self) -> None:
        """End the process."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()


_warm: WarmProcess | None = None


def call(job: str, arguments: Mapping[str, Any], progress: Progress = silent) -> Any:
    """Run one of ``JOBS`` in the warm process, starting it when needed, and return its JSON result.

    Args:
        job: a key of ``JOBS``.
        arguments: JSON values passed by keyword.
        progress: told what is being done.

    Raises:
        FTError: what the job raised.
    """
    global _warm  # noqa: PLW0603  one process a kernel, by design
    if _warm is None or not _warm.alive():
        _warm = WarmProcess(_environment())
    return _warm.call(job, arguments, progress)


def unload() -> None:
    """End the warm process and free its memory."""
    global _warm  # noqa: PLW0603  one process a kernel, by design
    if _warm is not None:
        _warm.close()
        _warm = None


def _environment() -> dict[str, str]:
    from ft_magic.hardware import read, threads
    from ft_magic.process_environment import process_environment

    hardware = read()
    return process_environment("cuda" if hardware.gpus else "cpu", threads(hardware))


def _rebuilt(error: Mapping[str, str]) -> FTError:
    kind = getattr(errors, error["type"], RunError)
    return cast("FTError", kind(error["problem"], error["instead"]))


atexit.register(unload)
