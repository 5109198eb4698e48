"""Progress of one long step (download, merge, quantize) with time left; short steps show nothing."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ft_magic.ui.screens import Bundle, Display, Frame, pick
from ft_magic.ui.show import FONT, bar_html, escape, seconds

# A person notices a wait after about this long; anything shorter would only flash by.
_SHOW_AFTER_S = 2.0
_AT_MOST_EVERY_S = 0.5
_IRREGULAR = {"Reading": "Read", "Writing": "Wrote", "Building": "Built", "Making": "Made", "Running": "Ran"}


class ProgressLine:
    """Shows how far a long step is; an instance is a ``Progress`` function.

    ``with ProgressLine("Merging") as progress: progress("layer 3", 3, 30)`` shows a bar with time left after
    two seconds and keeps ``Merged in 12 s`` at the end.

    Args:
        title: what is being done, starting with its verb (``Merging``).
        done: what to say at the end; by default made from the title.
        clock: seconds, monotonic.
        display: where to show it; by default the notebook, terminal or log this code runs in.
        heartbeat_s: redraw this often without news, so that the seconds go on; None to redraw on news only.
    """

    def __init__(
        self,
        title: str,
        done: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        display: Display | None = None,
        heartbeat_s: float | None = _AT_MOST_EVERY_S,
    ) -> None:
        self.title = title
        self.done = done or past(title)
        self._clock = clock
        self._display = display or pick()
        self._heartbeat_s = heartbeat_s
        self._state = ("", 0.0, 0.0)
        self._started = self._drawn = clock()
        self._shown = self._broken = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, what: str, done: float, total: float) -> None:
        """Take news: what is being done, and how much of it; total 0 means unknown."""
        self._state = (what, done, total)
        self.tick()

    def tick(self) -> None:
        """Draw if two seconds have passed and the last drawing is not too recent."""
        now = self._clock()
        if now - self._started >= _SHOW_AFTER_S and (
            not self._shown or now - self._drawn >= _AT_MOST_EVERY_S
        ):
            self._draw(self._words(now), final=False)

    def __enter__(self) -> Self:
        self._started = self._clock()
        if self._heartbeat_s is not None:
            # The copied context carries the cell's identity: the thread's output reaches that cell.
            run = contextvars.copy_context().run
            self._thread = threading.Thread(target=run, args=(self._beat,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._shown:
            took = seconds(self._clock() - self._started)
            self._draw(
                f"{self.done} in {took}" if kind is None else f"{self.title}: {_ended(kind)} after {took}",
                final=True,
            )

    def _beat(self) -> None:
        while not self._over.wait(self._heartbeat_s):
            self.tick()

    def _words(self, now: float) -> str:
        what, done, total = self._state
        parts = [self.title + (f": {what}" if what and what != self.title else "")]
        elapsed_s = now - self._started
        if total > 0:
            parts.append(f"{min(done / total, 1):.0%}")
        parts.append(seconds(elapsed_s))
        if 0 < done < total:
            parts.append(f"{seconds(elapsed_s * (total - done) / done)} left")
        return " \u00b7 ".join(parts)

    def _draw(self, text: str, *, final: bool) -> None:
        """Show a line; an error of the front end is told once and never ends the work."""
        with self._lock:
            _, done, total = self._state
            share = min(done / total, 1.0) if total > 0 else None
            self._shown, self._drawn = True, self._clock()
            frame = Frame(
                text=text,
                bundle=lambda: _bundle(text, share, final=final),
                stage=self.title,
                share=share,
                elapsed_s=self._drawn - self._started,
                final=final,
            )
            try:
                self._display(frame)
            except Exception as error:  # noqa: BLE001 - a front end may fail in any way; the work must go on
                if not self._broken:
                    self._broken = True
                    print(f"Progress cannot be shown ({type(error).__name__}: {error}).", file=sys.stderr)


def past(title: str) -> str:
    """Return a title in the past tense: ``Merging the adapter`` becomes ``Merged the adapter``."""
    verb, _, rest = title.partition(" ")
    if verb in _IRREGULAR:
        verb = _IRREGULAR[verb]
    elif verb.endswith("ying"):
        verb = verb[:-4] + "ied"
    elif verb.endswith("ing"):
        verb = verb[:-3] + "ed"
    else:
        return f"{title} done"
    return f"{verb} {rest}".strip()


def _ended(kind: type[BaseException] | None) -> str:
    return "interrupted" if kind is not None and issubclass(kind, KeyboardInterrupt) else "failed"


def _bundle(text: str, share: float | None, *, final: bool) -> Bundle:
    bar = "" if final or share is None else bar_html(share, width="420px", height_px=4)
    html = f'<div style="{FONT};font-size:13px;margin:2px 0">{escape(text)}{bar}</div>'
    return {"text/html": html, "text/plain": text}
