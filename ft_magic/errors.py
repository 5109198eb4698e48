"""Every error a user can meet.

    FTError
    |-- SpecError     (ValueError)    what was asked cannot be
    |-- DataError     (ValueError)    the data cannot be read or used
    |-- ModelError    (ValueError)    the model cannot be found or read
    |-- TemplateError (ValueError)    the chat template and the data do not fit
    |-- RunError      (RuntimeError)  a training run or worker failed
    |-- ExportError   (RuntimeError)  merging, converting, quantizing or serving failed

Each says three things: what was given, why it cannot be, what to write instead. In a notebook these are the
only lines shown (IPython calls ``_render_traceback_``); in a script it is an ordinary exception.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable


class FTError(Exception):
    """What was given, why it cannot be, and what to write instead.

    Args:
        problem: what was given and why it cannot be, in one line.
        instead: what to write or do instead, in one line; shown as a second line.
    """

    def __init__(self, problem: str, instead: str = "") -> None:
        self.problem = problem
        self.instead = instead
        super().__init__(problem if not instead else f"{problem}\n{instead}")

    def _render_traceback_(self) -> list[str]:
        """Return the lines IPython shows instead of a traceback."""
        if os.environ.get("FT_MAGIC_TRACEBACK") == "1":
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self.problem}", *self.instead.splitlines()]


class SpecError(FTError, ValueError):
    """What was asked cannot be."""


class DataError(FTError, ValueError):
    """The data cannot be read or used."""


class ModelError(FTError, ValueError):
    """The model cannot be found or read."""


class TemplateError(FTError, ValueError):
    """The chat template and the data do not fit."""


class RunError(FTError, RuntimeError):
    """A training run or its worker failed."""


class ExportError(FTError, RuntimeError):
    """Merging, converting, quantizing or serving failed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known word closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
