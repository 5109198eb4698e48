"""A row token by token, and the card of an audit; all escaped, in colours for light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ft_magic.data.card import LEVEL_COLOURS, box, finding_html
from ft_magic.template.checks import CHECKS

if TYPE_CHECKING:
    from ft_magic.data.report.finding import Finding
    from ft_magic.template.audit import Audit
    from ft_magic.template.render import Rendered
    from ft_magic.template.tokenizer import Tokenizer

_SHOWN_PIECES = 1500  # a page of tokens; more would make the notebook heavy
_LONGEST_PIECE_TOKENS = (
    8  # one character is at most 4 bytes; more undecodable tokens in a row are shown as they are
)
_TRAINED = "background:#2e9e5b44;border-bottom:2px solid #2e9e5b"
_SPECIAL = "border:1px solid currentColor;border-radius:3px;padding:0 2px;font-weight:bold"
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;line-height:1.7"


@dataclass(frozen=True)
class Piece:
    """The fewest tokens that decode to whole characters.

    Attributes:
        text: what they decode to.
        ids: their ids.
        trained: whether they are trained.
        special: whether it is a special token.
    """

    text: str
    ids: tuple[int, ...]
    trained: bool
    special: bool


@dataclass(frozen=True)
class Preview:
    """One row as the model sees it; shows itself as HTML in a notebook and as text elsewhere.

    Attributes:
        index: of the row.
        pieces: its tokens in order.
    """

    index: int
    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        parts = [f"row {self.index}, trained text between ⟦ and ⟧:\n"]
        trained = False
        for piece in self.pieces:
            if piece.trained != trained:
                parts.append("⟦" if piece.trained else "⟧")
                trained = piece.trained
            parts.append(piece.text)
        return "".join(parts) + ("⟧" if trained else "")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(str(self))

    def _repr_html_(self) -> str:
        count = sum(len(piece.ids) for piece in self.pieces)
        trained = sum(len(piece.ids) for piece in self.pieces if piece.trained)
        head = (
            f'<div>row {self.index}: {count} tokens, <span style="{_TRAINED}">{trained} trained</span>, '
            f'<span style="{_SPECIAL}">special tokens</span> framed</div>'
        )
        shown = "".join(map(_piece_html, self.pieces[:_SHOWN_PIECES]))
        more = len(self.pieces) - _SHOWN_PIECES
        tail = f"<div><i>{more} more tokens not shown</i></div>" if more > 0 else ""
        return box(f'{head}<div style="{_TEXT}">{shown}</div>{tail}')


def pieces_of(tokenizer: Tokenizer, rendered: Rendered) -> tuple[Piece, ...]:
    """Return the tokens of a rendering, those of one character together."""
    pieces: list[Piece] = []
    held: list[int] = []
    for place, (token_id, trained) in enumerate(zip(rendered.ids, rendered.mask, strict=True)):
        held.append(token_id)
        special = len(held) == 1 and token_id in tokenizer.special_ids
        text = tokenizer.codec.token_of(token_id) if special else tokenizer.decode(held)
        last = place + 1 == len(rendered.ids) or rendered.mask[place + 1] != trained
        if "\ufffd" in text and not special and not last and len(held) < _LONGEST_PIECE_TOKENS:
            continue  # half a character: wait for the rest
        pieces.append(Piece(text, tuple(held), trained, special))
        held = []
    return tuple(pieces)


def _piece_html(piece: Piece) -> str:
    style = ";".join(part for part in (_TRAINED * piece.trained, _SPECIAL * piece.special) if part)
    text = escape(piece.text).replace("\n", "↵\n")
    title = " ".join(map(str, piece.ids))
    return (
        f'<span title="{title}" style="{style}">{text}</span>'
        if style
        else f'<span title="{title}">{text}</span>'
    )


def _finding_html(finding: Finding) -> str:
    why = CHECKS[finding.name].why if finding.name in CHECKS else ""
    return f'{finding_html(finding)}<div style="opacity:.7;padding-left:1em">{escape(why)}</div>'


def audit_card(audit: Audit) -> str:
    """Return the card of an audit: verdict, findings, and the first row that can be shown."""
    colour = LEVEL_COLOURS[audit.verdict]
    head = f'<b style="color:{colour}">{escape(audit.verdict)}</b> {escape(audit.summary.partition(": ")[2])}'
    lines = "".join(map(_finding_html, audit.findings)) or "<div>Nothing found.</div>"
    bad = set(audit.bad_rows)
    good = next((index for index in range(len(audit.data)) if index not in bad), None)
    preview = "" if good is None else audit.preview(good)._repr_html_()
    return box(f"<div>{head}</div>{lines}") + preview
