"""The rows of a template audit, one at a time, token by token, in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft_magic.data.card import LEVEL_COLOURS
from ft_magic.errors import TemplateError
from ft_magic.template.preview import audit_card, pieces_of
from ft_magic.ui import widget
from ft_magic.ui.widget import FIRST_ROWS

if TYPE_CHECKING:
    from ft_magic.template.audit import Audit
    from ft_magic.template.render import Rendered

_SHOWN_PIECES = 3000  # more would make the page heavy; the rest is counted
_TRAINED, _SPECIAL = 1, 2  # flags of a piece
_MOST_FLAGGED = 20_000  # numbers of rows with findings sent along, about 120 KB
_MOST_WANTED = 50  # rows one message may ask for


def template_widget(audit: Audit) -> Any:
    """Return a widget that pages through the rows of an audit.

    Raises:
        RunError: anywidget is not installed.
    """
    why = _findings_by_row(audit)
    flagged = sorted(why)[:_MOST_FLAGGED]
    count = len(audit.data)
    first = flagged[0] if flagged else 0
    order = [first, *flagged[:FIRST_ROWS], *range(min(count, FIRST_ROWS))]

    def view(index: int) -> dict[str, Any]:
        return row_view(audit, index, why.get(index, ()))

    def answer(content: Mapping[str, Any]) -> dict[str, Any]:
        return {"rows": [view(index) for index in wanted(content, count)]}

    state = {
        "count": count,
        "first": first,
        "marked": flagged,
        "marked_all": len(why),
        "rows": widget.first_rows(order, view) if count else {},
    }
    return widget.make("template.js", state, answer)


def show_audit(audit: Audit) -> None:
    """Show an audit's card and below it the widget.

    Raises:
        NotImplementedError: no widget would be drawn here; IPython then shows the card alone.
    """
    if not widget.drawable():
        raise NotImplementedError
    widget.show({"text/html": audit_card(audit), "text/plain": repr(audit)}, template_widget(audit))


def wanted(content: Mapping[str, Any], count: int) -> list[int]:
    """Return the rows that a message of the front end asks for, those that exist."""
    asked = content.get("want")
    return (
        [i for i in asked[:_MOST_WANTED] if isinstance(i, int) and 0 <= i < count]
        if isinstance(asked, list)
        else []
    )


def row_view(audit: Audit, index: int, why: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return a row as plain values for the front end.

    Args:
        audit: of the row.
        index: of the row.
        why: (level, message) of the findings about it.
    """
    view: dict[str, Any] = {
        "index": index,
        "why": [[level, LEVEL_COLOURS.get(level, ""), message] for level, message in why],
        "sides": [],
        "error": "",
    }
    try:
        if audit.data.signal == "pair":
            pair = audit.render_pair(index)
            sides = [("chosen", pair.chosen), ("rejected", pair.rejected)]
        else:
            sides = [("", audit.render(index))]
        view["sides"] = [_side(audit, name, rendered) for name, rendered in sides]
    except TemplateError as error:
        view["error"] = str(error)
    return view


def _side(audit: Audit, name: str, rendered: Rendered) -> dict[str, Any]:
    pieces = pieces_of(audit.tokenizer, rendered)
    return {
        "name": name,
        "tokens": len(rendered.ids),
        "trained": rendered.trained_tokens,
        "cut": rendered.full_tokens - len(rendered.ids) if rendered.truncated else 0,
        "pieces": [
            [piece.text, list(piece.ids), _TRAINED * piece.trained + _SPECIAL * piece.special]
            for piece in pieces[:_SHOWN_PIECES]
        ],
        "more": max(0, len(pieces) - _SHOWN_PIECES),
    }


def _findings_by_row(audit: Audit) -> dict[int, list[tuple[str, str]]]:
    """Return row -> the (level, message) of what was found there, as far as a finding names rows."""
    found: dict[int, list[tuple[str, str]]] = {index: [] for index in audit.bad_rows}
    for finding in audit.findings:
        if finding.level != "info":
            for index in dict.fromkeys([*finding.examples, *audit.removable.get(finding.name, ())]):
                found.setdefault(index, []).append((finding.level, finding.message))
    return found
