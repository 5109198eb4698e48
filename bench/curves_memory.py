"""Draw memory against length, batch, rank and model size: the closed form as lines, traced steps as points.

    python bench/curves_memory.py [--out docs/images/memory_curves.svg] [--no-trace]

Lines are ``ft.estimate_memory`` from config.json alone; points are the installed libraries' own step on the meta device
(engine ``trace``), so one checks the other. Allocated memory, no card's runtime.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic.memory.cards import GIB, UNKNOWN
from ft_magic.memory.question import setting
from ft_magic.memory.setting import Setting
from ft_magic.memory.step import peak
from ft_magic.models.architecture import architecture

Config = dict[str, Any]
Point = tuple[float, float]
_LLAMA: Config = {"model_type": "llama", "tie_word_embeddings": True, "max_position_embeddings": 131072}


def llama(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int = 128256) -> Config:
    """Return the config of a Llama of these sizes."""
    return _LLAMA | {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": inner, "vocab_size": vocab,
    }  # fmt: skip


# SmolLM2's and Llama 3's config.json.
MODELS = (
    llama(576, 30, 9, 3, 1536, 49152),
    llama(960, 32, 15, 5, 2560, 49152),
    llama(2048, 16, 32, 8, 8192),
    llama(3072, 28, 24, 8, 8192),
    llama(4096, 32, 32, 8, 14336),
)
ONE = MODELS[2]
WAYS: dict[str, dict[str, Any]] = {
    "full, 16 bit": {"update": "full", "precision": "pure"},
    "LoRA": {"update": "lora", "gradient_checkpointing": False},
    "LoRA, checkpointing": {"update": "lora"},
    "QLoRA, checkpointing": {"update": "qlora"},
}
COLOURS = ("#c2410c", "#0f766e", "#2563eb", "#7c3aed")
_WIDTH, _HEIGHT, _LEFT, _FOOT, _TOP = 460, 250, 46, 36, 30


@dataclass(frozen=True)
class Panel:
    """One drawing: what grows, at which values, and how a value becomes a model and a step."""

    title: str
    values: Sequence[float]
    traced: Sequence[float]
    made: Callable[[float, dict[str, Any]], tuple[Config, Setting]]


def _asked(way: dict[str, Any], **more: Any) -> Setting:
    return setting(**{"max_length": 1024, "loss": "full", "accumulation": False, **way, **more})


def _sized(billions: float, way: dict[str, Any]) -> tuple[Config, Setting]:
    config = min(MODELS, key=lambda given: abs(architecture(given).parameters / 1e9 - billions))
    return config, _asked(way)


SIZES = [architecture(config).parameters / 1e9 for config in MODELS]
PANELS = (
    Panel("length, tokens", range(256, 8193, 256), (512, 2048, 4096, 8192), lambda x, way: (ONE, _asked(way, max_length=int(x)))),
    Panel("examples a micro-batch, 1,024 tokens each", range(1, 17), (1, 4, 8, 16), lambda x, way: (ONE, _asked(way, micro_batch_size=int(x)))),
    Panel("rank", (4, 8, 16, 32, 64, 128, 256, 384, 512), (8, 128, 512), lambda x, way: (ONE, _asked(way, lora_r=int(x)))),
    Panel("billion weights, 1,024 tokens", SIZES, SIZES[2:], _sized),
)  # fmt: skip


def closed(config: Config, step: Setting) -> float:
    """Return the closed form's peak of allocated memory in GiB."""
    return peak(architecture(config), step, UNKNOWN).allocated_bytes / GIB


def traced(config: Config, step: Setting) -> float:
    """Return the traced peak of allocated memory in GiB."""
    from ft_magic.memory.tracing import trace

    return trace(config, step, UNKNOWN).allocated_bytes / GIB


def curves(panel: Panel, *, points: bool) -> dict[str, tuple[list[Point], list[Point]]]:
    """Return the line and the traced points of each way to train."""
    found = {}
    for name, way in WAYS.items():
        if panel.title == "rank" and way["update"] == "full":
            continue
        line = [(float(x), closed(*panel.made(x, way))) for x in panel.values]
        dots = [(float(x), traced(*panel.made(x, way))) for x in panel.traced] if points else []
        found[name] = (line, dots)
    return found


def drawn(panel: Panel, found: dict[str, tuple[list[Point], list[Point]]], left: float, top: float) -> str:
    """Return a panel as SVG."""
    across = max(x for line, _ in found.values() for x, _ in line)
    high = max(y for rows in found.values() for row in rows for _, y in row) * 1.05
    wide, tall = _WIDTH - _LEFT - 14, _HEIGHT - _TOP - _FOOT

    def place(x: float, y: float) -> str:
        return f"{left + _LEFT + x / across * wide:.1f},{top + _TOP + tall - y / high * tall:.1f}"

    parts = [f'<text x="{left + _LEFT}" y="{top + 18}" class="title">GiB against {panel.title}</text>']
    for share in (0.0, 0.5, 1.0):
        x, y = place(0, share * high / 1.05).split(",")
        parts.append(f'<path d="M{x},{y}h{wide}" class="grid"/>')
        parts.append(
            f'<text x="{left + _LEFT - 6}" y="{float(y) + 4}" text-anchor="end">{share * high / 1.05:.3g}</text>'
        )
        x, y = place(share * across, 0).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{share * across:.4g}</text>')
    for name, (line, dots) in found.items():
        colour = COLOURS[list(WAYS).index(name)]
        parts.append(
            f'<polyline points="{" ".join(place(*point) for point in line)}" stroke="{colour}" class="line"/>'
        )
        for point in dots:
            x, y = place(*point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.2" fill="{colour}"/>')
    return "\n".join(parts)


def picture(panels: Sequence[str]) -> str:
    """Return the whole drawing with its legend."""
    wide, tall = 2 * _WIDTH, 2 * _HEIGHT + 30
    legend = []
    for number, (name, colour) in enumerate(zip(WAYS, COLOURS, strict=True)):
        x = _LEFT + number * 200
        legend.append(f'<path d="M{x},{tall - 12}h24" stroke="{colour}" class="line"/>')
        legend.append(f'<text x="{x + 30}" y="{tall - 8}">{name}</text>')
    style = (
        "text{font:12px sans-serif;fill:#7a828c}.title{font-size:13px}.grid{stroke:#80808047}"
        ".line{fill:none;stroke-width:2}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}">'
    )
    return "\n".join([head, f"<style>{style}</style>", *panels, *legend, "</svg>", ""])


def main() -> int:
    """Write the picture, and print how far traced points are from the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", default="docs/images/memory_curves.svg")
    parser.add_argument("--no-trace", action="store_true")
    asked = parser.parse_args()
    drawings = []
    for number, panel in enumerate(PANELS):
        found = curves(panel, points=not asked.no_trace)
        drawings.append(drawn(panel, found, _WIDTH * (number % 2), _HEIGHT * (number // 2)))
        for name, (line, dots) in found.items():
            near = [y / dict(line)[x] - 1 for x, y in dots]
            if near:
                print(
                    f"{panel.title}: {name}: traced is {min(near):+.1%} to {max(near):+.1%} of the closed form"
                )
    target = Path(asked.out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture(drawings), encoding="utf-8")
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
