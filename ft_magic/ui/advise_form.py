"""The form of an advice as a widget: one menu a question; every choice goes through the rules at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_magic.ui import widget

_WORDS = "Run this cell to answer the questions here."
# (display, verdict in a sentence, code that does the same) for some answers
Answered = Callable[[dict[str, str | None]], tuple[dict[str, str], str, str]]


def form_widget(
    questions: Sequence[Mapping[str, Any]], answered: Answered, changed: Callable[..., None]
) -> Any:
    """Return the widget.

    Args:
        questions: ``key``, ``asks``, ``answers`` as pairs of word and meaning, ``given``.
        answered: puts answers to the rules.
        changed: gets the display for new answers.

    Raises:
        RunError: anywidget is not installed.
    """
    keys = [question["key"] for question in questions]

    def answer(content: Mapping[str, Any]) -> dict[str, str]:
        given = content.get("answers") or {}
        bundle, verdict, code = answered({key: given.get(key) or None for key in keys})
        changed(bundle)
        return {"verdict": verdict, "code": code}

    _, verdict, code = answered({question["key"]: question["given"] for question in questions})
    state = {"questions": list(questions), "verdict": verdict, "code": code}
    return widget.make("advise.js", state, answer)


def show_form(static: Mapping[str, str], questions: Sequence[Mapping[str, Any]], answered: Answered) -> None:
    """Show an advice and below it the form; the advice follows the answers and stays in a saved notebook."""
    handles: list[Any] = []

    def changed(bundle: Mapping[str, str]) -> None:
        for handle in handles:
            handle.update(dict(bundle), raw=True)

    handles.append(widget.show(static, form_widget(questions, answered, changed), _WORDS))
