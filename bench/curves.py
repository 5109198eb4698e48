"""How a step's time grows with length, batch, rank and model size: plain TRL against ft_magic, each program run alone.

python bench/curves.py [--steps 3] [--threads N] [--only length batch rank model]

Writes bench/out/curves.json, docs/images/speed.svg and prints Markdown. Needs matplotlib (``pip install ft-magic[bench]``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import run
from work import ROOT, Work

from ft_magic import models

PROGRAMS = ("trl", "ft_magic")
LENGTHS, BATCHES, RANKS = (64, 128, 256, 512), (1, 2, 4), (4, 16, 64)
# Layers and width of random Llamas with the demo's vocabulary, and the demo itself.
SIZES = {"62M": (12, 448), "135M": (30, 576), "362M": (32, 960)}
_LENGTH = 192  # tokens a row where length is not the question
_PICTURE = ROOT / "docs" / "images" / "speed.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps; the first is not counted")
    parser.add_argument("--threads", type=int, default=max(run.usual_threads()))
    parser.add_argument("--only", nargs="+", choices=("length", "batch", "rank", "model"), default=None)
    asked = parser.parse_args()
    shutil.rmtree(run.OUT, ignore_errors=True)
    run.OUT.mkdir(parents=True)
    base = Work(
        model=str(models.resolve("demo")),
        data=str(_rows()),
        steps=asked.steps,
        batch_examples=2,
        max_length_tokens=_LENGTH,
    )
    found = {
        name: [point(asked.threads, name, at, work) for at, work in works]
        for name, works in curves(base).items()
        if not asked.only or name in asked.only
    }
    (run.OUT / "curves.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    draw(found, asked.threads)
    print(markdown(found, asked.threads))


def curves(base: Work) -> dict[str, list[tuple[Any, Work]]]:
    """Return by question the works that answer it, each with its place on the axis."""
    return {
        "length": [(at, replace(base, max_length_tokens=at)) for at in LENGTHS],
        "batch": [(at, replace(base, batch_examples=at)) for at in BATCHES],
        "rank": [(at, replace(base, rank=at)) for at in RANKS],
        "model": [(name, replace(base, model=_model(name))) for name in SIZES],
    }


def point(threads: int, curve: str, at: Any, work: Work) -> dict[str, Any]:
    """Return the median seconds a step of each program."""
    seconds: dict[str, float] = {}
    for name in PROGRAMS:
        folder = run.OUT / f"{name}-{threads}-0"
        shutil.rmtree(folder, ignore_errors=True)
        seconds[name] = median(run.measure(name, work, threads, 0)["step_s"])
        print(f"{curve} {at}: {name} {seconds[name]:.2f} s a step", file=sys.stderr, flush=True)
    return {"at": at, "seconds": seconds}


def _rows() -> Path:
    """Write rows longer than any length asked for, so that every row has just that length."""
    text = (ROOT / "ft_magic" / "samples" / "handbook.txt").read_text(encoding="utf-8").split()
    words = text * (1 + 64_000 // len(text))
    path = run.OUT / "rows.json"
    rows = [
        {"instruction": "Go on.", "input": "", "output": " ".join(words[700 * i : 700 * (i + 1)])}
        for i in range(64)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def _model(name: str) -> str:
    """Return the demo, or a folder with a random model of another size and the demo's tokenizer."""
    demo = models.resolve("demo")
    layers, width = SIZES[name]
    if name == "135M":
        return str(demo)
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = run.OUT / f"model-{name}"
    config = AutoConfig.from_pretrained(demo)
    config.num_hidden_layers, config.hidden_size, config.head_dim = layers, width, 64
    config.intermediate_size, config.layer_types = 8 * width // 3 // 64 * 64, None
    config.num_attention_heads, config.num_key_value_heads = width // 64, 1
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in demo.iterdir():
        if "token" in file.name or file.name == "chat_template.jinja":
            shutil.copy(file, folder)
    return str(folder)


def markdown(found: dict[str, list[dict[str, Any]]], threads: int) -> str:
    """Return the seconds a step as one table."""
    titles = [run.PROGRAMS[name].title for name in PROGRAMS]
    lines = [
        ["", *(f"{title}, s a step" for title in titles), "ft_magic to TRL"],
        ["---"] * (len(titles) + 2),
    ]
    for name, points in found.items():
        for one in points:
            took = [one["seconds"][program] for program in PROGRAMS]
            lines.append([f"{name} {one['at']}", *(f"{s:.2f}" for s in took), f"{took[-1] / took[0]:.2f}"])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"`python bench/curves.py --threads {threads}`\n\n{table}"


def draw(found: dict[str, list[dict[str, Any]]], threads: int) -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "ft_magic"  # the same figures give the same file
    figure, panels = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3), squeeze=False)
    axis = {"length": "tokens a row", "batch": "rows a step", "rank": "LoRA rank", "model": "weights"}
    for panel, (name, points) in zip(panels[0], found.items(), strict=True):
        places = [str(one["at"]) for one in points]
        for program in PROGRAMS:
            panel.plot(
                places,
                [one["seconds"][program] for one in points],
                marker="o",
                label=run.PROGRAMS[program].title,
            )
        panel.set_xlabel(axis[name])
        panel.set_ylim(bottom=0)
    panels[0][0].set_ylabel(f"seconds a step, {threads} thread{'s' * (threads > 1)}")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(_PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
