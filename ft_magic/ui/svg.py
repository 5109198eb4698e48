"""The chart of a run as a picture that survives everywhere: saved, exported, untrusted notebooks, reports.

Hand-written SVG in an ``<img>`` data URI: sanitisers drop inline ``<svg>`` but keep pictures. Mid-tones
on a half-transparent ground read on light and on dark pages.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

from ft_magic.ui.headline import numbers_line
from ft_magic.ui.panels import (
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Chart,
    Curve,
    Panel,
    Sign,
)
from ft_magic.ui.show import escape
from ft_magic.ui.thinning import thin

_TEXT, _GRID = "#7a828c", "rgba(128,128,128,0.28)"
_WIDTH, _TITLE, _HEAD, _FOOT = 920, 26, 58, 34
_PLOT, _METHOD_ROW = 250, 138
_TICKS = 28  # left of a small panel, for the numbers on its axis; its title begins there, to leave room for the value
# A small panel is about 150 pixels wide: more points than pixels only add bytes.
_SMALL_POINTS = 100
_SIGN_COLOURS = {
    "checkpoint": PURPLE, "preflight": GREEN, "warning": ORANGE, "out of memory": RED, "stop": RED, "resume": TEAL,
    "not a number": RED,
}  # fmt: skip


@dataclass(frozen=True)
class _Box:
    """Where a panel's axes lie, in pixels from the top left, and the values at its edges."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height


def image(chart: Chart, *, heading: bool = True) -> str:
    """Return the chart as an HTML ``<img>`` whose alternative text holds the numbers.

    Args:
        chart: what to draw.
        heading: whether title and verdict are part of the picture.
    """
    data = base64.b64encode(draw(chart, heading=heading).encode()).decode()
    alt = f"Training chart of {chart.title}: {numbers_line(chart.summary)}; {chart.summary.verdict}"
    style = f"width:100%;max-width:{_WIDTH}px;height:auto;display:block;margin:4px 0"
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}" style="{style}">'


def draw(chart: Chart, *, heading: bool = True) -> str:
    """Return the chart as an SVG document."""
    hidden = 0 if heading else _TITLE
    height = _HEAD + _PLOT + (_METHOD_ROW if chart.method else 0) + _FOOT - hidden
    across = (0.0, float(chart.last_step))
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" fill="{_TEXT}" '
        f'viewBox="0 {hidden} {_WIDTH} {height}" font-family="system-ui,sans-serif" font-size="11">'
    )
    parts = [
        opening,
        f'<rect y="{hidden}" width="{_WIDTH}" height="{height}" rx="10" fill="rgba(128,128,128,0.09)"/>',
        _loss(chart, across),
    ]
    if heading:
        parts.append(_text(20, 26, chart.title, size=14, weight=600))
        parts.append(_text(_WIDTH - 20, 26, chart.summary.verdict, anchor="end", size=12))
    half = (_PLOT - 44) / 2
    for i, panel in enumerate(chart.side):
        top = _HEAD + (half + 44) * (i // 2)
        parts.append(_small(panel, 572 + 182 * (i % 2), top, 140, half, across))
    width = (_WIDTH - 40) / max(len(chart.method), 1)
    for i, panel in enumerate(chart.method):
        top = _HEAD + _PLOT + 54
        parts.append(_small(panel, 62 + width * i, top, width - 66, _METHOD_ROW - 54, across))
    return "".join([*parts, "</svg>"])


def _loss(chart: Chart, across: tuple[float, float]) -> str:
    box = _box(chart.loss, 62, _HEAD, 446, _PLOT, across)
    parts = [_axes(box, ticks=5, small=False), _text(20, box.top - 10, chart.loss.title)]
    parts += [_polyline(box, curve) for curve in chart.loss.curves]
    parts += [_sign(box, sign) for sign in chart.signs]
    if not chart.loss.curves:
        words = "no steps yet" if chart.summary.status in ("planned", "running") else "no steps"
        parts.append(_text(box.left + box.width / 2, box.top + box.height / 2, words, anchor="middle"))
    return "".join([*parts, _legend(box, chart)])


def _small(
    panel: Panel, left: float, top: float, width: float, height: float, across: tuple[float, float]
) -> str:
    box = _box(panel, left, top, width, height, across)
    parts = [_axes(box, ticks=3, small=panel.small_numbers), _text(left - _TICKS, top - 10, panel.title)]
    parts += [_polyline(box, _thinner(curve)) for curve in panel.curves]
    if panel.latest and panel.curves:
        parts.append(_text(left + width, top - 10, panel.latest, anchor="end", weight=600))
    named = [curve for curve in panel.curves if curve.name and curve.style == "line"]
    for i, curve in enumerate(named if len(named) > 1 else []):
        # At the right and between the curves' ends, which lie furthest apart there.
        y = top + height * (0.42 + 0.3 * i)
        parts.append(_text(left + width - 4, y, curve.name, anchor="end", colour=curve.colour, size=10))
    return "".join(parts)


def _thinner(curve: Curve) -> Curve:
    return Curve(curve.name, *thin(curve.x, curve.y, _SMALL_POINTS), curve.colour, curve.style)


def _box(
    panel: Panel, left: float, top: float, width: float, height: float, across: tuple[float, float]
) -> _Box:
    """Return a panel's place with the range of its values, a little wider than the values are."""
    values = [value for curve in panel.curves for value in curve.y]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    if low >= 0:
        # A curve that stays above zero does not get an axis below it.
        low = 0.0 if panel.from_zero else max(low - margin, 0.0)
    else:
        low -= margin
    return _Box(left, top, width, height, across, (low, high + margin))


def ticks_of(low: float, high: float, wanted: int) -> list[float]:
    """Return about so many round numbers between two values."""
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    # Multiplying a whole number keeps 3 x 0.1 from becoming 0.30000000000000004.
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(box: _Box, *, ticks: int, small: bool) -> str:
    parts = []
    for value in ticks_of(*box.y, ticks):
        _, y = box.place(box.x[0], value)
        parts.append(_line(box.left, y, box.left + box.width, y))
        parts.append(_text(box.left - 6, y + 3.5, _tick(value, small=small), anchor="end", size=10))
    bottom = box.top + box.height
    for value in ticks_of(*box.x, ticks):
        # Steps are whole: a run of two steps has no step 0.5.
        if value == int(value):
            x, _ = box.place(value, box.y[0])
            parts.append(_line(x, bottom, x, bottom + 3))
            parts.append(_text(x, bottom + 14, f"{value:.0f}", anchor="middle", size=10))
    parts.append(_line(box.left, bottom, box.left + box.width, bottom))
    if ticks > 3:
        parts.append(_text(box.left + box.width / 2, bottom + 26, "step", anchor="middle", size=10))
    return "".join(parts)


def _tick(value: float, *, small: bool) -> str:
    if small and value:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.10g}" if abs(value) < 1e5 else f"{value:.2g}"


def _polyline(box: _Box, curve: Curve) -> str:
    pixels = [box.place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
    width, opacity = (1, 0.35) if curve.style == "faint" else (2, 1)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    line = (
        f'<polyline points="{points}" fill="none" stroke="{curve.colour}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-linejoin="round"/>'
    )
    dots = pixels if curve.style == "dots" or len(pixels) == 1 else []
    return line + "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{curve.colour}"/>' for x, y in dots
    )


def _sign(box: _Box, sign: Sign) -> str:
    x, y = box.place(sign.mark.step, sign.y)
    return _shape(sign.mark.kind, x, y)


def _shape(kind: str, x: float, y: float) -> str:
    """Return a small sign; each kind has its own shape, so that colour is not needed to tell them apart."""
    colour = _SIGN_COLOURS[kind]
    if kind == "resume":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="{colour}" stroke-width="2"/>'
    paths = {
        "checkpoint": "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
        "preflight": "M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0-4.5 0Z",
        "warning": "M0-6L6 5L-6 5Z",
        "out of memory": "M0 6L6-5L-6-5Z",
        "stop": "M-4.5-4.5H4.5V4.5H-4.5Z",
        "not a number": "M-5-3L-3-5L0-2L3-5L5-3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    }
    return f'<path d="{paths[kind]}" transform="translate({x:.1f} {y:.1f})" fill="{colour}"/>'


def _legend(box: _Box, chart: Chart) -> str:
    """Return names of curves and signs in a row above the panel, from its right edge to the left."""
    parts, x, y = [], box.left + box.width, box.top - 10
    kinds = [kind for kind in _SIGN_COLOURS if any(sign.mark.kind == kind for sign in chart.signs)]
    for kind in reversed(kinds):
        parts += [_text(x, y, kind, anchor="end", size=10), _shape(kind, x - _wide(kind) - 9, y - 4)]
        x -= _wide(kind) + 22
    for curve in reversed([curve for curve in chart.loss.curves if curve.name]):
        parts.append(_text(x, y, curve.name, anchor="end", size=10))
        end = x - _wide(curve.name) - 3
        opacity = 0.35 if curve.style == "faint" else 1
        parts.append(_line(end - 12, y - 4, end, y - 4, colour=curve.colour, width=2.5, opacity=opacity))
        x = end - 22
    return "".join(parts)


def _wide(text: str) -> float:
    """Estimate the width of a small label in pixels; system fonts differ by about a tenth."""
    return 6.1 * len(text)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: int = 400,
    colour: str = "",
) -> str:
    look = f' font-size="{size}"' if size != 11 else ""
    look += f' font-weight="{weight}"' if weight != 400 else ""
    look += f' text-anchor="{anchor}"' if anchor != "start" else ""
    look += f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{look}>{escape(text)}</text>'


def _line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = _GRID, width: float = 1, opacity: float = 1
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}"/>'
    )
