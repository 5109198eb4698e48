"""Charts of a run, from its events and nothing else.

``spec`` writes plotly's JSON without plotly, so following a run is cheap and works where plotly is missing;
``figure`` makes a normal plotly ``Figure`` of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ft_magic.events import Event
from ft_magic.ui import advice as _advice
from ft_magic.ui.headline import numbers_line
from ft_magic.ui.history import History
from ft_magic.ui.panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Chart,
    Curve,
    Panel,
    Sign,
    build,
)
from ft_magic.ui.show import escape
from ft_magic.ui.summary import Summary, summarise

__all__ = ["Summary", "advice", "figure", "spec", "spec_of", "summary"]

Json = dict[str, Any]

# Mid-grey has a contrast of about 4:1 against white and 5:1 against #111111.
_TEXT, _GRID, _BACK = "#7a828c", "rgba(128,128,128,0.25)", "rgba(128,128,128,0.06)"
_CLEAR = "rgba(0,0,0,0)"
# Pixels: a chart keeps its height while a run goes on, so that the page below does not jump.
_HEAD, _PLOT, _METHOD_ROW, _FOOT = 76, 270, 150, 44
_NOTE_LINE, _NOTE_COLUMNS, _MOST_NOTES = 17, 130, 3
SIGNS = {
    "checkpoint": ("diamond", PURPLE),
    "preflight": ("circle", GREEN),
    "warning": ("triangle-up", ORANGE),
    "out of memory": ("triangle-down", RED),
    "stop": ("square", RED),
    "resume": ("circle-open", TEAL),
    "not a number": ("x", RED),
}
_SIGN_SIZE_PX = 8


def summary(events: Iterable[Event] | History) -> Summary:
    """Return a run in numbers, with a verdict in a few words."""
    history = History.of(events)
    return summarise(history, _advice.verdict(history, _advice.findings(history)))


def advice(events: Iterable[Event] | History) -> list[str]:
    """Return plain words about curves that have left their healthy range; an empty list for a healthy run."""
    return [finding.text for finding in _advice.findings(History.of(events))]


def figure(events: Iterable[Event] | History, *, title: str | None = None) -> Any:
    """Return the chart of a run as a plotly ``Figure``.

    Raises:
        ImportError: plotly is not installed.
    """
    from ft_magic.ui import svg
    from ft_magic.ui.figure import RunFigure

    chart = build(History.of(events), title=title)
    return RunFigure.of(spec_of(chart), svg.image(chart))


def spec(events: Iterable[Event] | History, *, title: str | None = None) -> Json:
    """Return the chart of a run as plotly's JSON, ``{"data", "layout"}``; plotly is not loaded."""
    return spec_of(build(History.of(events), title=title))


def spec_of(chart: Chart) -> Json:
    """Return plotly's JSON of a chart."""
    plot = _PLOT + (_METHOD_ROW if chart.method else 0)
    foot_lines = [line for text in chart.notes[:_MOST_NOTES] for line in _wrap(f"\u26a0 {text}")]
    foot = _FOOT + _NOTE_LINE * len(foot_lines)
    data: list[Json] = []
    layout = _layout(chart, plot, foot)
    for i, (panel, x, y) in enumerate(_places(chart, plot), start=1):
        suffix = "" if i == 1 else str(i)
        data += [_trace(curve, suffix, legend=i == 1) for curve in panel.curves]
        layout |= _axes(
            panel, suffix, x, y, last=chart.last_step, named=y[0] == 0 or (i == 1 and not chart.method)
        )
        layout["annotations"].append(_heading(panel, x, y, large=i == 1))
    data += _sign_traces(chart)
    layout["annotations"] += [_line(text, -(foot_lines.index(text) * _NOTE_LINE + 36)) for text in foot_lines]
    return {"data": data, "layout": layout}


def _places(chart: Chart, plot_px: int) -> list[tuple[Panel, tuple[float, float], tuple[float, float]]]:
    """Return each panel with its left-right and bottom-top place, as shares of the plot area."""
    low = _METHOD_ROW / plot_px if chart.method else 0.0
    gap = 46 / plot_px
    middle = (1 + low) / 2
    left, right = (0.62, 0.79), (0.85, 1.0)
    upper, lower = (middle + gap / 2, 1.0), (low + (gap if chart.method else 0), middle - gap / 2)
    lower_loss = (lower[0], 1.0)
    places = [(chart.loss, (0.0, 0.55), lower_loss)]
    places += list(zip(chart.side, (left, right, left, right), (upper, upper, lower, lower), strict=True))
    width = 1 / max(len(chart.method), 1)
    top = low - gap
    places += [
        (panel, (width * i + 0.0, width * (i + 1) - 0.06), (0.0, top)) for i, panel in enumerate(chart.method)
    ]
    return places


def _layout(chart: Chart, plot_px: int, foot_px: int) -> Json:
    """Return what all panels share: size, margins, colours, legend, heading and progress bar."""
    return {
        "height": _HEAD + plot_px + foot_px,
        "margin": {"l": 48, "r": 16, "t": _HEAD, "b": foot_px, "pad": 0},
        "autosize": True,
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _BACK,
        # An empty template: plotly's default one forces white grids and dark text.
        "template": {"data": {}, "layout": {}},
        "font": {"color": _TEXT, "size": 11, "family": "system-ui, sans-serif"},
        "hovermode": "x",
        "hoverlabel": {"font": {"size": 11}},
        # Keeps a user's zoom and hidden curves when the chart is redrawn.
        "uirevision": "ft_magic",
        "showlegend": True,
        "legend": {
            "orientation": "h", "x": 0.55, "xanchor": "right", "y": 1.0, "yanchor": "bottom",
            "bgcolor": _CLEAR, "font": {"size": 10, "color": _TEXT},
        },
        "annotations": _head(chart),
        "shapes": _bar(chart, plot_px),
    }  # fmt: skip


def _head(chart: Chart) -> list[Json]:
    name = f"<b>{escape(chart.title)}</b>   {escape(chart.summary.verdict)}"
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"}
    look = {"showarrow": False, "align": "left"}
    return [
        {**place, **look, "xshift": -40, "yshift": 53, "text": name, "font": {"size": 13, "color": _TEXT}},
        {
            **place,
            **look,
            "xshift": -40,
            "yshift": 36,
            "text": escape(numbers_line(chart.summary)),
            "font": {"color": _TEXT},
        },
    ]


def _bar(chart: Chart, plot_px: int) -> list[Json]:
    """Return a progress bar between heading and panels; nothing where the number of steps is unknown."""
    s = chart.summary
    if not s.total_steps:
        return []
    share = min(s.step / s.total_steps, 1.0)
    bottom = 1 + 29 / plot_px
    place = {
        "type": "rect",
        "xref": "paper",
        "yref": "paper",
        "y0": bottom,
        "y1": bottom + 4 / plot_px,
        "x0": 0,
    }
    colour = {"failed": RED, "stopped": ORANGE, "finished": GREEN}.get(s.status, BLUE)
    return [
        {**place, "x1": 1, "fillcolor": _GRID, "line": {"width": 0}},
        {**place, "x1": share, "fillcolor": colour, "line": {"width": 0}},
    ]


def _axes(
    panel: Panel, suffix: str, x: tuple[float, float], y: tuple[float, float], *, last: int, named: bool
) -> Json:
    look: Json = {
        "gridcolor": _GRID,
        "linecolor": _GRID,
        "zeroline": False,
        "color": _TEXT,
        "automargin": False,
    }
    across: Json = {
        "domain": list(x),
        "anchor": f"y{suffix}",
        "nticks": 8 if not suffix else 4,
        "range": [0, last],
    }
    if suffix:
        across["matches"] = "x"
    if named:
        across["title"] = {"text": "step", "standoff": 4, "font": {"size": 10}}
    up: Json = {"domain": list(y), "anchor": f"x{suffix}", "nticks": 6 if not suffix else 4}
    if panel.small_numbers:
        up["exponentformat"] = "e"
    if panel.from_zero:
        up["rangemode"] = "tozero"
    return {f"xaxis{suffix}": look | across, f"yaxis{suffix}": look | up}


def _heading(panel: Panel, x: tuple[float, float], y: tuple[float, float], *, large: bool) -> Json:
    """Return a panel's title; the large panel's stands above its axis and leaves the rest to the legend."""
    latest = f"  <b>{escape(panel.latest)}</b>" if panel.latest and not large else ""
    return {
        "xshift": -40 if large else 0,
        "xref": "paper", "yref": "paper", "x": x[0], "y": y[1], "xanchor": "left", "yanchor": "bottom",
        "showarrow": False, "text": escape(panel.title) + latest, "font": {"size": 11, "color": _TEXT},
    }  # fmt: skip


def _line(text: str, shift_px: int) -> Json:
    return {
        "xref": "paper", "yref": "paper", "x": 0, "y": 0, "xanchor": "left", "yanchor": "top",
        "xshift": -40, "yshift": shift_px, "showarrow": False, "align": "left",
        "text": escape(text), "font": {"color": ORANGE},
    }  # fmt: skip


def _trace(curve: Curve, suffix: str, *, legend: bool) -> Json:
    width = 1 if curve.style == "faint" else 2
    trace: Json = {
        "type": "scatter",
        "mode": "lines+markers" if curve.style == "dots" or len(curve.x) == 1 else "lines",
        "name": escape(curve.name),
        "x": list(curve.x),
        "y": [_five_digits(value) for value in curve.y],
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "line": {"color": curve.colour, "width": width},
        "hovertemplate": f"%{{y:.4~g}}<extra>{escape(curve.name)}</extra>",
        # The raw values say what they are when pointed at; the legend has little room.
        "showlegend": legend and curve.style != "faint",
    }
    if curve.style == "faint":
        trace["opacity"] = 0.35
    if "markers" in trace["mode"]:
        trace |= {"marker": {"size": 6, "color": curve.colour}, "cliponaxis": False}
    return trace


def _sign_traces(chart: Chart) -> list[Json]:
    """Return one trace of markers for each kind of sign that occurs."""
    groups = {kind: [sign for sign in chart.signs if sign.mark.kind == kind] for kind in SIGNS}
    return [_sign_trace(kind, signs) for kind, signs in groups.items() if signs]


def _sign_trace(kind: str, signs: Sequence[Sign]) -> Json:
    symbol, colour = SIGNS[kind]
    return {
        "type": "scatter", "mode": "markers", "name": kind, "xaxis": "x", "yaxis": "y",
        "x": [sign.mark.step for sign in signs], "y": [_five_digits(sign.y) for sign in signs],
        "text": [escape(_shorter(sign.mark.text)) for sign in signs],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": symbol, "size": _SIGN_SIZE_PX, "color": colour},
        "cliponaxis": False,
    }  # fmt: skip


def _five_digits(value: float) -> float:
    """Round to five significant digits: a pixel shows no more, and notebooks stay small."""
    return float(f"{value:.5g}")


def _shorter(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "\u2026"


def _wrap(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _NOTE_COLUMNS, subsequent_indent="   ")
