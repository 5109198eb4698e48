"""The widget of a review: one row at a time, accept, edit, reject, undo, by button or key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ft_magic.data.decisions import ACCEPTED, EDITED, REJECTED, UNDECIDED
from ft_magic.data.provenance import Record
from ft_magic.data.row import shortened
from ft_magic.errors import DataError
from ft_magic.ui import widget
from ft_magic.ui.row_texts import texts_of, with_texts
from ft_magic.ui.template_view import wanted
from ft_magic.ui.widget import FIRST_ROWS

if TYPE_CHECKING:
    from ft_magic.ui.review import Review

# One letter a row: a million rows stay one message.
LETTERS: Mapping[str, str] = {ACCEPTED: "a", EDITED: "e", REJECTED: "r", UNDECIDED: "u"}


def review_widget(review: Review, changed: Callable[[], None]) -> Any:
    """Return the widget of a review.

    Args:
        review: whose rows.
        changed: called after each decision.

    Raises:
        RunError: anywidget is not installed.
    """
    states = "".join(LETTERS[review.decisions.about(row).state] for row in review.rows)
    first = max(states.find(LETTERS[UNDECIDED]), 0)
    order = [*range(first, min(first + FIRST_ROWS, len(review))), *range(min(first, FIRST_ROWS))]
    records = review.rows.provenance

    def view(index: int) -> dict[str, Any]:
        return row_view(review, index, records[index])

    def answer(content: Mapping[str, Any]) -> dict[str, Any]:
        if content.get("kind") != "decide":
            return {"rows": [view(index) for index in wanted(content, len(review))]}
        index = _decided(review, content)
        changed()
        made = view(index)
        return {"rows": [made], "saved": index, "state": made["state"]}

    state = {
        "count": len(review),
        "first": first,
        "states": states,
        "rows": widget.first_rows(order, view) if len(review) else {},
    }
    return widget.make("review.js", state, answer)


def show_review(review: Review) -> None:
    """Show the table of a review and below it the widget; the table follows the decisions."""
    handles: list[Any] = []

    def changed() -> None:
        for handle in handles:
            handle.update(review._repr_mimebundle_(), raw=True)

    made = review_widget(review, changed)
    handles.append(widget.show(review._repr_mimebundle_(), made))


def row_view(review: Review, index: int, record: Record | None) -> dict[str, Any]:
    """Return a row as plain values for the front end, in its new wording where it was edited."""
    word = review.decisions.about(review.rows[index])
    row = word.row or review.rows[index]
    return {
        "index": index,
        "state": LETTERS[word.state],
        "fields": [[piece.label, piece.text, piece.editable] for piece in texts_of(row)],
        "origin": _origin(record) if record else "",
    }


def _origin(record: Record) -> str:
    """Return where a made row comes from, in one line."""
    parts = [f"written by {record.get('model')} in request {record.get('request')}"]
    if record.get("seeds"):
        parts.append(f"shown examples {', '.join(map(str, record['seeds']))}")
    if record.get("passage"):
        parts.append(f"from document {record.get('document')}: {shortened(record['passage'], 300)}")
    return "; ".join(parts)


def _decided(review: Review, content: Mapping[str, Any]) -> int:
    """Do what a message asks and return the row's number.

    Raises:
        DataError: it cannot be done.
    """
    index, state, texts = content.get("index"), content.get("state"), content.get("texts")
    if not isinstance(index, int) or not 0 <= index < len(review):
        raise DataError("A decision came without a row's number.", "Run the cell again.")
    if state == LETTERS[EDITED] and isinstance(texts, list):
        base = review.decisions.about(review.rows[index]).row or review.rows[index]
        try:
            row = with_texts(base, [str(text) for text in texts])
        except ValueError as error:
            raise DataError("The texts do not fit the row.", "Run the cell again.") from error
        review.edit(index, row)
    elif state == LETTERS[ACCEPTED]:
        review.accept(index)
    elif state == LETTERS[REJECTED]:
        review.reject(index)
    else:
        review.undo(index)
    return index
