"""The parts of a peak as one stacked bar against a card's limit: as a picture, and as plotly's JSON.

The widget draws the same bar itself from the same figures (``assets/memory.js``).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ft_magic.memory import Memory
from ft_magic.memory.cards import Card
from ft_magic.ui.show import escape, gib

Json = dict[str, Any]
GIB = 2**30

# Part of ``Memory.parts`` -> (colour, what it is). Mid-tones, right on light and on dark pages; what belongs together
# has neighbouring hues: weights blue, what trains violet, one step's tensors green and orange, the rest grey.
PARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "weights": ("#2f6fdb", "the model's weights as they are stored"),
        "unquantized weights": ("#5b9bf0", "embeddings, output layer and norms, left in 16 bits"),
        "quantization constants": ("#8fbcf7", "scales of the 4-bit blocks"),
        "adapter": ("#7c4fd6", "the small matrices that train, in fp32"),
        "gradients": ("#a47ae8", "one value for each trained weight"),
        "optimizer": ("#c77ddb", "Adam's two running means for each trained weight"),
        "activations": ("#2e9e5b", "kept of the forward pass for the backward; grows with tokens"),
        "logits and loss": ("#d98a1f", "a score for every token and word of the vocabulary"),
        "other models": ("#3aa6a0", "reference or value models beside the trained one"),
        "KV cache": ("#c9a227", "keys and values of answers while they are written"),
        "workspace": ("#8a929c", "scratch room of matrix products and optimizer"),
        "runtime": ("#6b737d", "CUDA itself, before the first tensor"),
        "fragmentation": ("#b9bfc6", "held in vain by PyTorch; freed when room is needed"),
    }
)
_OTHER = ("#9aa0a6", "")
_LIMIT = "#dc2626"
_TEXT, _GRID, _CLEAR = "#7a828c", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"
# The picture, in pixels.
_WIDTH, _LEFT, _BAR_TOP, _BAR, _LINE = 900, 10, 26, 30, 18
# Plotly's, in pixels; a legend gives each name the width of the longest.
_PLOT, _LEGEND_LINE, _LEGEND_COLUMNS = 62, 20, 5
_LETTER = 6.2  # a small letter of system fonts; they differ by about a tenth


def shares(memory: Memory) -> list[tuple[str, int, str, str]]:
    """Return (name, bytes, colour, what it is) of each part that is not empty, in the order of ``PARTS``."""
    names = [*PARTS, *(name for name in memory.parts if name not in PARTS)]
    return [
        (name, memory.parts[name], *PARTS.get(name, _OTHER))
        for name in names
        if memory.parts.get(name, 0) > 0
    ]


def axis_bytes(memory: Memory, card: Card | None) -> float:
    """Return how many bytes the whole width of the bar stands for."""
    return 1.04 * max(memory.device_bytes, card.memory_bytes if card else 0, 1)


def image(memory: Memory, card: Card | None = None) -> str:
    """Return the bar as an HTML ``<img>`` whose alternative text holds the numbers."""
    data = base64.b64encode(draw(memory, card).encode()).decode()
    parts = ", ".join(f"{name} {gib(size)}" for name, size, *_ in shares(memory))
    limit = f"; limit {gib(card.memory_bytes)} ({card.name})" if card else ""
    alt = f"Peak memory {gib(memory.device_bytes)}: {parts}{limit}"
    style = f"width:100%;max-width:{_WIDTH}px;height:auto;display:block;margin:4px 0"
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}" style="{style}">'


def draw(memory: Memory, card: Card | None = None) -> str:
    """Return the bar with its legend as an SVG document."""
    scale = (_WIDTH - 2 * _LEFT) / axis_bytes(memory, card)
    parts, x = [], float(_LEFT)
    for name, size, colour, _ in shares(memory):
        width = size * scale
        title = f"<title>{escape(name)}: {gib(size)}</title>"
        parts.append(
            f'<rect x="{x:.1f}" y="{_BAR_TOP}" width="{width:.1f}" height="{_BAR}" fill="{colour}">{title}</rect>'
        )
        x += width
    if card:
        parts.append(_limit(_LEFT + card.memory_bytes * scale, card))
    legend, height = _legend(memory)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" fill="{_TEXT}" font-family="system-ui,sans-serif" font-size="12">'
    )
    ground = f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="rgba(128,128,128,0.09)"/>'
    return "".join([opening, ground, *parts, legend, "</svg>"])


def _limit(x: float, card: Card) -> str:
    anchor = "end" if x > _WIDTH / 2 else "start"
    shift = -5 if anchor == "end" else 5
    words = escape(f"{card.name}: {gib(card.memory_bytes)}")
    return (
        f'<line x1="{x:.1f}" y1="8" x2="{x:.1f}" y2="{_BAR_TOP + _BAR + 4}" stroke="{_LIMIT}" stroke-width="2"/>'
        f'<text x="{x + shift:.1f}" y="18" text-anchor="{anchor}" fill="{_LIMIT}">{words}</text>'
    )


def _legend(memory: Memory) -> tuple[str, int]:
    """Return the legend below the bar, wrapped, and the height of the whole picture."""
    parts, x, y = [], float(_LEFT), _BAR_TOP + _BAR + _LINE
    for name, size, colour, _ in shares(memory):
        words = f"{name} {gib(size)}"
        width = 14 + _LETTER * len(words) + 16
        if x + width > _WIDTH and x > _LEFT:
            x, y = float(_LEFT), y + _LINE
        parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14:.1f}" y="{y}">{escape(words)}</text>')
        x += width
    return "".join(parts), y + 12


def spec(memory: Memory, card: Card | None = None, *, title: str = "") -> Json:
    """Return the stacked bar as plotly's JSON, ``{"data", "layout"}``; plotly is not loaded."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": escape(f"{name} {gib(size)}"),
            "y": [""],
            "x": [round(size / GIB, 4)],
            "marker": {"color": colour},
            "hovertemplate": f"<b>{escape(name)}</b> {gib(size)}<br>{escape(meaning)}<extra></extra>",
        }
        for name, size, colour, meaning in shares(memory)
    ]
    top, below = 58 if title else 34, 34 + _LEGEND_LINE * -(-len(data) // _LEGEND_COLUMNS)
    layout: Json = {
        "barmode": "stack",
        "height": top + _PLOT + below,
        "margin": {"l": 16, "r": 16, "t": top, "b": below},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "template": {"data": {}, "layout": {}},
        "font": {"color": _TEXT, "size": 11, "family": "system-ui, sans-serif"},
        "legend": {"orientation": "h", "x": 0, "y": -28 / _PLOT, "yanchor": "top", "traceorder": "normal"},
        "xaxis": {
            "range": [0, axis_bytes(memory, card) / GIB],
            "ticksuffix": " GiB",
            "gridcolor": _GRID,
            "zeroline": False,
        },
        "yaxis": {"showticklabels": False, "fixedrange": True},
        "hovermode": "closest",
    }
    if title:
        layout["title"] = {
            "text": escape(title),
            "font": {"size": 13},
            "x": 0.01,
            "y": 0.97,
            "yanchor": "top",
        }
    if card:
        limit = card.memory_bytes / GIB
        layout["shapes"] = [
            {
                "type": "line", "xref": "x", "yref": "paper", "x0": limit, "x1": limit, "y0": -0.02, "y1": 1.12,
                "line": {"color": _LIMIT, "width": 2},
            }
        ]  # fmt: skip
        layout["annotations"] = [
            {
                "xref": "x", "yref": "paper", "x": limit, "y": 1.12, "yanchor": "bottom", "showarrow": False,
                "xanchor": "right" if limit > axis_bytes(memory, card) / GIB / 2 else "left",
                "text": escape(f"{card.name}: {gib(card.memory_bytes)}"), "font": {"color": _LIMIT},
            }
        ]  # fmt: skip
    return {"data": data, "layout": layout}


def title_of(memory: Memory) -> str:
    """Return what a chart is called."""
    return f"Peak memory of a step: {gib(memory.device_bytes)}, at its {memory.instant or 'largest'} peak"


def bundle(memory: Memory, card: Card | None = None) -> dict[str, Any]:
    """Return the bar for front ends that draw plotly, and for all others."""
    title = title_of(memory)
    return {
        "application/vnd.plotly.v1+json": spec(memory, card, title=title),
        "text/html": image(memory, card),
        "text/plain": title,
    }


def figure(memory: Memory, card: Card | None = None) -> Any:
    """Return the bar as a plotly ``Figure``.

    Raises:
        ImportError: plotly is not installed.
    """
    from ft_magic.ui.figure import RunFigure

    title = title_of(memory)
    return RunFigure.of(spec(memory, card, title=title), image(memory, card), title)
