"""The warm process behind ``jobs.py``: reads one job a line, answers with progress and one result."""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any, cast

from ft_magic.errors import FTError
from ft_magic.jobs import JOBS

_IDLE_S = 600.0


def main() -> int:
    """Serve jobs until the other end closes, or nothing was asked for ten minutes."""
    # Libraries print to standard output as they like; the protocol keeps the pipe for itself.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    while select.select([sys.stdin], [], [], _IDLE_S)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        _serve(json.loads(line), answers)
    return 0


def _serve(message: dict[str, Any], answers: IO[str]) -> None:
    def tell(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    def progress(what: str, done: float, total: float) -> None:
        tell(progress=[what, done, total])

    try:
        tell(result=_function(message["job"])(progress=progress, **message["arguments"]))
    except FTError as error:
        tell(error={"type": type(error).__name__, "problem": error.problem, "instead": error.instead})
    except Exception as error:  # noqa: BLE001  every failure must reach the other end, whatever it was
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        tell(
            error={
                "type": "RunError",
                "problem": f"{message['job']} failed: {text}",
                "instead": _place(error),
            }
        )


def _function(job: str) -> Callable[..., Any]:
    module, name = JOBS[job].split(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"At {last.name} in {last.filename}:{last.lineno}."


if __name__ == "__main__":
    raise SystemExit(main())
