"""Small tables, notes and number formats for a notebook cell and for a terminal.

Everything shown comes as a pair: HTML with inline styles only (a ``<style>`` element does not survive an
untrusted notebook) and plain text. Colours are inherited or half transparent: right on light and dark themes.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Mid-grey at part opacity reads on white and on near-black alike.
LINE = "rgba(128,128,128,0.35)"
TINT = "rgba(128,128,128,0.12)"
# Mid-tones with a contrast of at least 3:1 against both #ffffff and #111111 (WCAG 2.2, 1.4.11).
GOOD, WARN, BAD = "#16a34a", "#d97706", "#dc2626"
FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
DASH = "\u2013"

_CELL = f"padding:3px 12px 3px 0;border:0;border-bottom:1px solid {LINE};vertical-align:top"


class Html(str):
    """Markup that is already escaped; every other value is escaped when it is shown."""

    __slots__ = ()


@dataclass(frozen=True, repr=False)
class Shown:
    """Something to look at, as HTML and as plain text; the last value of a cell shows itself.

    Attributes:
        html: escaped markup with inline styles.
        text: the same for terminals and logs.
    """

    html: str
    text: str

    def _repr_mimebundle_(self, **_chosen: Any) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text

    def __add__(self, other: Shown) -> Shown:
        return Shown(f"{self.html}\n{other.html}", f"{self.text}\n\n{other.text}")


def escape(value: object) -> str:
    """Return a value as markup: escaped, except where it is ``Html`` already."""
    return value if isinstance(value, Html) else html.escape(str(value), quote=True)


def shown_table(
    rows: Iterable[Sequence[object]],
    header: Sequence[str] = (),
    *,
    title: str = "",
    notes: Sequence[str] = (),
) -> Shown:
    """Return a titled table with notes below, as HTML and as text.

    Args:
        rows: cells of any kind; numbers are set right, None is shown as a dash.
        header: column titles, or empty.
        title: a line above.
        notes: lines below, each its own sentence.
    """
    rows = [list(row) for row in rows]
    markup = [heading_html(title)] if title else []
    lines = [title] if title else []
    if rows or header:
        markup.append(table_html(rows, header))
        lines.append(text_table(rows, header))
    markup += [note_html(note) for note in notes]
    return Shown(f'<div style="{FONT}">{"".join(markup)}</div>', "\n".join([*lines, *notes]))


def table_html(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return an HTML table; strings are escaped, line breaks kept, numbers set right."""
    rows = [list(row) for row in rows]
    right = _right_columns(rows)
    head = ""
    if header:
        cells = "".join(_cell("th", title, i in right) for i, title in enumerate(header))
        head = f'<thead><tr style="background:transparent">{cells}</tr></thead>'
    body = "".join(_row(row, right) for row in rows)
    # JupyterLab centres tables and stripes their rows; both are set back here.
    style = "border-collapse:collapse;margin:4px 0 8px 0;font-size:13px;color:inherit;background:transparent"
    return f'<table style="{style}">{head}<tbody>{body}</tbody></table>'


def _row(row: Sequence[object], right: set[int]) -> str:
    cells = "".join(_cell("td", cell, i in right) for i, cell in enumerate(row))
    return f'<tr style="background:transparent">{cells}</tr>'


def _cell(tag: str, value: object, right: bool) -> str:
    align = "right" if right else "left"
    weight = ";font-weight:600" if tag == "th" else ""
    style = f"{_CELL};text-align:{align};white-space:pre-wrap{weight}"
    return f'<{tag} style="{style}">{escape(_plain(value))}</{tag}>'


def heading_html(text: str) -> str:
    """Return a small heading."""
    return f'<div style="font-weight:600;font-size:14px;margin:6px 0 2px 0">{escape(text)}</div>'


def note_html(text: str) -> str:
    """Return a line of small print below a table."""
    return f'<div style="font-size:12px;opacity:0.8;margin:2px 0">{escape(text)}</div>'


def badge_html(text: str, colour: str) -> Html:
    """Return a word on a pill, for a status or verdict; ``colour`` is ``GOOD``, ``WARN`` or ``BAD``."""
    style = f"border:1px solid {colour};border-radius:9px;padding:0 8px;color:{colour};font-weight:600"
    return Html(f'<span style="{style}">{escape(text)}</span>')


def bar_html(share: float, colour: str = "#3b82f6", *, width: str = "100%", height_px: int = 5) -> str:
    """Return a bar made of a table: ``<progress>`` and ``<style>`` do not survive untrusted notebooks."""
    cell = f"height:{height_px}px;padding:0;border:0;line-height:{height_px}px;font-size:1px"
    parts = ((min(max(share, 0.0), 1.0), colour), (1 - min(max(share, 0.0), 1.0), LINE))
    cells = "".join(
        f'<td style="{cell};width:{100 * part:.1f}%;background:{shade}">&nbsp;</td>'
        for part, shade in parts
        if part
    )
    style = (
        f"border-collapse:collapse;border:0;table-layout:fixed;width:{width};max-width:100%;margin:3px 0 6px"
    )
    row = f'<tr style="background:transparent">{cells}</tr>'
    return f'<table role="presentation" style="{style}"><tbody>{row}</tbody></table>'


def pre_html(text: str) -> str:
    """Return text in a fixed-width box that wraps."""
    style = f"white-space:pre-wrap;background:{TINT};padding:8px 10px;border-radius:6px;font-size:12px"
    return f'<pre style="{style};margin:4px 0;color:inherit">{escape(text)}</pre>'


def text_table(rows: Iterable[Sequence[object]], header: Sequence[str] = (), *, widest: int = 60) -> str:
    """Return a table as aligned text.

    Args:
        rows: cells of any kind; numbers are set right.
        header: column titles, underlined, or empty.
        widest: columns of the terminal a cell may take; longer cells end in an ellipsis.
    """
    rows = [list(row) for row in rows]
    right = _right_columns(rows)
    lines = [
        [cut(_plain(cell), widest) for cell in row] for row in ([list(header), *rows] if header else rows)
    ]
    if not lines:
        return ""
    widths = [max(_columns(row[i]) for row in lines if i < len(row)) for i in range(max(map(len, lines)))]
    text = [
        "  ".join(_pad(cell, widths[i], i in right) for i, cell in enumerate(row)).rstrip() for row in lines
    ]
    if header:
        text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def cut(text: str, columns: int) -> str:
    """Return text as one line of at most ``columns`` terminal columns, an ellipsis in place of the rest."""
    line = " ".join(text.split())
    if _columns(line) <= columns:
        return line
    kept, used = "", 0
    for char in line:
        used += _columns(char)
        if used > columns - 1:
            break
        kept += char
    return kept + "\u2026"


def _columns(text: str) -> int:
    """Count terminal columns: wide East Asian characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _columns(text))
    return space + text if right else text + space


def _plain(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return value  # also Html, which str() would make plain text again
    # Five digits and more are easier to read in groups.
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _right_columns(rows: Sequence[Sequence[object]]) -> set[int]:
    """Return the columns that hold nothing but numbers (and gaps)."""
    width = max(map(len, rows), default=0)
    columns = [[row[i] for row in rows if i < len(row) and row[i] is not None] for i in range(width)]
    return {i for i, cells in enumerate(columns) if cells and all(_is_number(cell) for cell in cells)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits: ``2.153``, ``12.00``, ``2e-4``."""
    if value is None or not math.isfinite(value):
        return DASH if value is None or math.isnan(value) else ("\u221e" if value > 0 else "-\u221e")
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if power < -3 or power >= 6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.{max(digits - 1 - power, 0)}f}"


def gib(size_bytes: float | None) -> str:
    """Return a size in the largest fitting binary unit: ``1.50 GiB``, ``96.0 MiB``, ``12 B``."""
    if size_bytes is None:
        return DASH
    size, units = float(size_bytes), ("B", "KiB", "MiB", "GiB", "TiB")
    index = min(int(math.log2(abs(size)) // 10), len(units) - 1) if abs(size) >= 1 else 0
    digits = (0, 0, 1, 2, 2)[index]
    return f"{size / 1024**index:.{digits}f} {units[index]}"


def seconds(duration_s: float | None) -> str:
    """Return a duration in words: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``, ``1 d 3 h``."""
    if duration_s is None or not math.isfinite(duration_s):
        return DASH
    if duration_s < 9.95:
        return f"{duration_s:.1f} s"
    whole = round(duration_s)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def count(quantity: float | None) -> str:
    """Return how many: ``949``, ``12,345``, ``134.5 M``, ``8.03 B``."""
    if quantity is None:
        return DASH
    if abs(quantity) >= 1e9:
        return f"{quantity / 1e9:.2f} B"
    if abs(quantity) >= 1e6:
        return f"{quantity / 1e6:.1f} M"
    return f"{quantity:,.0f}"
