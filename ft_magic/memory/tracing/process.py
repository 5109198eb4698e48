"""A trace in a process of its own, so that the kernel never imports torch.

Question and answer are JSON: ``{"record": ...}`` or ``{"model": ..., "asked": ...}`` in, the fields of a ``Memory``
out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ft_magic import errors
from ft_magic.errors import FTError, RunError
from ft_magic.memory.memory import Memory

# Importing torch, transformers, PEFT and TRL takes 6 to 20 s, a trace 0.3 to 20 s.
_LONGEST_S = 600
_ERROR_LINES = 5


def here() -> bool:
    """Return whether this process has torch already, so that tracing in it costs nothing more."""
    return "torch" in sys.modules


def ask(question: Mapping[str, Any]) -> Memory:
    """Return the traced memory a question asks for, from another process.

    Raises:
        FTError: what the trace refused, or why its process failed.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # tensors without values need one thread
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ft_magic.memory.tracing.process"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the trace took more than {_LONGEST_S} s.", "Use engine='closed'.") from None
    answer = done.stdout.rpartition("\n{")[2]
    if done.returncode or not answer:
        told = " ".join(done.stderr.splitlines()[-_ERROR_LINES:])
        raise RunError(f"the process that traces failed: {told}", "Use engine='closed'.")
    return _read(json.loads("{" + answer))


def _read(answer: dict[str, Any]) -> Memory:
    if "problem" in answer:
        kind = getattr(errors, answer["kind"])
        raise kind(answer["problem"], answer["instead"])
    return Memory(**answer | {"error": tuple(answer["error"]), "notes": tuple(answer["notes"])})


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    # Not at the top: the question imports this module.
    from ft_magic.memory.question import estimate_memory

    try:
        if "record" in question:
            found = estimate_memory(record=question["record"], engine="trace")
        else:
            found = estimate_memory(question["model"], engine="trace", **question["asked"])
    except FTError as refusal:
        return {"kind": type(refusal).__name__, "problem": refusal.problem, "instead": refusal.instead}
    return asdict(found) | {"parts": dict(found.parts)}


if __name__ == "__main__":
    import torch  # noqa: F401 - the trace runs here

    print(f"\n{json.dumps(_answer(json.load(sys.stdin)))}")
