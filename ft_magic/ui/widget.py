"""Widgets of our own: local JavaScript, a first state, and messages between the front end and the kernel.

A widget is gone when a saved notebook is opened again, so whatever it shows stands in an output of its own too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ft_magic.errors import FTError, RunError
from ft_magic.ui.environment import has_kernel, watched

_ASSETS = Path(__file__).with_name("assets")
_SHARED, _STYLE = "rows.js", "widgets.css"
# Sent with the widget, so that it shows something while the kernel is busy; jupyter_server drops more than 1 MB/s.
FIRST_ROWS = 50
_FIRST_CHARACTERS = 400_000

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def drawable() -> bool:
    """Tell whether a widget would be drawn and used: a notebook, a person, and anywidget installed."""
    return has_kernel() and watched() and importlib.util.find_spec("anywidget") is not None


def module_of(asset: str) -> str:
    """Return the JavaScript module of a widget: what all share, then its own."""
    return "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in (_SHARED, asset))


def style_of(asset: str) -> str:
    """Return the style sheet of a widget: what all share, then its own where it has one."""
    own = _ASSETS / Path(asset).with_suffix(".css")
    return "\n".join(path.read_text(encoding="utf-8") for path in (_ASSETS / _STYLE, own) if path.exists())


def make(asset: str, state: Mapping[str, Any], answer: Answer) -> Any:
    """Return a widget.

    Args:
        asset: file of its JavaScript in ``assets``.
        state: what it shows first; JSON values.
        answer: gets a message of the front end and returns the reply; it may run on another thread than cells.

    Raises:
        RunError: anywidget is not installed.
    """
    if importlib.util.find_spec("anywidget") is None:
        raise RunError(
            "A widget needs the package anywidget, which is not installed.", 'pip install "ft-magic[widgets]"'
        )
    import anywidget
    import traitlets

    class Widget(anywidget.AnyWidget):  # type: ignore[misc]  # ipywidgets below it has no types
        """One local module; ``start`` is its first state."""

        _esm = module_of(asset)
        _css = style_of(asset)
        start = traitlets.Dict().tag(sync=True)

    made = Widget(start=dict(state))

    def reply(_widget: Any, content: Any, _buffers: Any) -> None:
        try:
            made.send(dict(answer(content)))
        except FTError as error:
            made.send({"error": str(error), "about": content})

    made.on_msg(reply)
    return made


def show(
    static: Mapping[str, Any], made: Any, words: str = "Run this cell to page through the rows here."
) -> Any:
    """Show what stays in a saved notebook, and below it, in an output of its own, a widget.

    Args:
        static: mime bundle without any script.
        made: the widget.
        words: what stands in its place where widgets are not drawn.

    Returns:
        The handle of the static output, for updates.
    """
    from IPython.display import display

    handle = display(dict(static), raw=True, display_id=True)
    found = made._repr_mimebundle_()
    bundle = dict(found[0] if isinstance(found, tuple) else found or {})
    bundle["text/plain"] = words
    display(bundle, raw=True)
    return handle


def first_rows(order: list[int], view: Callable[[int], Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the views of rows that are sent with the widget: in this order, until enough is enough.

    Args:
        order: numbers of rows, the most wanted first.
        view: makes the view of a row.
    """
    import json

    views: dict[str, Mapping[str, Any]] = {}
    room = _FIRST_CHARACTERS
    for index in dict.fromkeys(order):
        made = view(index)
        room -= len(json.dumps(made))
        if views and room < 0:
            break
        views[str(index)] = made
    return views
