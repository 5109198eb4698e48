"""Where this code runs, and whether a person is watching.

Everything is read from the environment and from modules that are loaded already; nothing is imported for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

FRONT_ENDS = ("kaggle", "colab", "vscode", "marimo", "jupyter", "ipython-terminal", "script")
_KAGGLE_FOLDER = Path("/kaggle/working")


def front_end() -> str:
    """Return the name of the place this code runs in, one of ``FRONT_ENDS``.

    Kaggle comes before Colab because its image is Colab's and exports Colab's variables too.
    """
    shell = _shell()
    kernel = has_kernel()
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") and _KAGGLE_FOLDER.exists():
        return "kaggle"
    if shell is not None and "google.colab" in str(type(shell)):
        return "colab"
    if kernel and ("VSCODE_PID" in os.environ or "__vsc_ipynb_file__" in shell.user_ns):
        return "vscode"
    if _in_marimo():
        return "marimo"
    if kernel:
        return "jupyter"
    return "script" if shell is None else "ipython-terminal"


def has_kernel() -> bool:
    """Tell whether output goes to a notebook through a Jupyter kernel, so that rich displays are drawn."""
    return getattr(_shell(), "kernel", None) is not None


def watched() -> bool:
    """Tell whether a person is there to answer; false under nbclient, papermill, Kaggle batch and CI."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch":
        return False
    if has_kernel():
        # Set by each execute request: nbclient and papermill send False.
        return bool(getattr(_shell().kernel, "_allow_stdin", False))
    return _in_marimo() or (_is_terminal(sys.stdin) and _is_terminal(sys.stdout))


def _shell() -> Any:
    """Return IPython's shell, or None; IPython is loaded wherever there is one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _in_marimo() -> bool:
    running = getattr(sys.modules.get("marimo"), "running_in_notebook", None)
    return running is not None and bool(running())


def _is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal; it is None in windowed programs and may be closed."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
