"""Where something that changes is shown: an output of a notebook, a line of a terminal, lines of a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from ft_magic.ui.environment import has_kernel
from ft_magic.ui.show import cut

Bundle = Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """One state of something that changes.

    Attributes:
        text: one line that says it all.
        bundle: makes the mime bundle for a notebook; called only where one is drawn.
        stage: changes when a log should say so (``running``, ``finished``).
        share: part that is done, 0 to 1; None when unknown.
        elapsed_s: seconds since the start.
        final: whether nothing follows.
    """

    text: str
    bundle: Callable[[], Bundle]
    stage: str = ""
    share: float | None = None
    elapsed_s: float = 0.0
    final: bool = False


Display = Callable[[Frame], None]


def pick() -> Display:
    """Return the display that fits where this code runs."""
    if has_kernel():
        return Notebook()
    stream = sys.stderr
    return Line(stream) if stream.isatty() else Log(stream)


class Notebook:
    """One output of a notebook cell, updated in place; its last state is what the saved notebook holds."""

    def __init__(self) -> None:
        self._handle: Any = None

    def __call__(self, frame: Frame) -> None:
        """Show a frame."""
        from IPython.display import display

        bundle = dict(frame.bundle())
        if self._handle is None:
            # A raw bundle, not a Figure: a Figure with a display id makes a new output each time.
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class Line:
    """One line of a terminal, written over itself."""

    def __init__(self, stream: TextIO, columns: Callable[[], int] | None = None) -> None:
        self._stream = stream
        self._columns = columns or _terminal_columns

    def __call__(self, frame: Frame) -> None:
        """Show a frame."""
        # Return to the first column, then clear to the end of the line (ECMA-48 EL).
        self._stream.write("\r\x1b[K" + cut(frame.text, self._columns() - 1) + ("\n" if frame.final else ""))
        self._stream.flush()


class Log:
    """Lines of a log: at each new stage, each tenth of the way, and ever more rarely in between."""

    # After half a minute, then each time the run is a quarter older: about 33 lines in twelve hours.
    _FIRST_S, _GROWTH = 30.0, 1.25

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage: str | None = None
        self._tenth = 0
        self._next_s = self._FIRST_S

    def __call__(self, frame: Frame) -> None:
        """Write a line if the frame is worth one."""
        tenth = int((frame.share or 0.0) * 10)
        if not (
            frame.final
            or frame.stage != self._stage
            or tenth > self._tenth
            or frame.elapsed_s >= self._next_s
        ):
            return
        self._stage, self._tenth = frame.stage, tenth
        self._next_s = max(frame.elapsed_s * self._GROWTH, self._FIRST_S)
        self._stream.write(frame.text + "\n")
        self._stream.flush()


def _terminal_columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
