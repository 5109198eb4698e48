"""Put published peaks to other offline memory estimators, and print who answers how near.

    python bench/rivals_memory.py [--site DIR] [--rows FILE ...] [--only NAME ...] [--corrected]

The rivals are never a dependency: install the ones wanted into an environment of their own
(``pip install --no-deps fitcheck-llm canifinetune vramcalc ftuneai hf-vram-calc gpu-estimator alloc tinyforge`` and
their light dependencies, no torch), and give its site-packages as ``--site``. Each runs in a process of its own. A
tool that would ask the Hub for a config.json is given one made from the row's sizes. Only what every tool means by
fine-tuning is asked: supervised, whole or by LoRA, at a stated length, a dense model on one device. Where a row's
figure is allocated memory, a tool that tells its runtime share apart is scored without that share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from memory_heldout import ROWS, VAGUE, correct, read_rows
from rivals_tools import TOOLS, Row

PLAIN = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")
HEAD = (
    "| tool | version | answered | median | 90th percentile | bias | worst | within 10 % | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def comparable(row: Row) -> bool:
    """Return whether every tool could mean the row."""
    arch = row.get("arch") or {}
    measured = row["usable"] and row["kind"] == "measured" and row["n_gpus"] == 1 and row["seq_len"]
    plain = row["method"] == "sft" and row["update"] in ("full", "lora", "qlora")
    return bool(measured and plain and arch and not arch.get("experts"))


def config(row: Row) -> Row:
    """Return the config.json of a row's model; a family with code of its own is told as the plain one nearest."""
    arch = row["arch"]
    kind = (
        arch["model_type"] if arch["model_type"] in PLAIN else ("llama" if arch["gated_mlp"] else "gpt_neox")
    )
    return {
        "model_type": kind,
        "architectures": [{"gpt_neox": "GPTNeoXForCausalLM"}.get(kind, f"{kind.title()}ForCausalLM")],
        "hidden_size": arch["hidden"],
        "num_hidden_layers": arch["layers"],
        "num_attention_heads": arch["heads"],
        "num_key_value_heads": arch["kv_heads"] or arch["heads"],
        "head_dim": arch["head_dim"],
        "intermediate_size": arch["intermediate"],
        "vocab_size": arch["vocab"],
        "tie_word_embeddings": bool(arch["tied"]),
        "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16",
    }


def drive(name: str) -> None:
    """Answer the rows on standard input with one tool: a JSON line each, on standard output."""
    distribution, prepare = TOOLS[name]
    answer = sys.stdout
    sys.stdout = sys.stderr  # what a tool prints is not an answer
    print(json.dumps({"version": metadata.version(distribution)}), file=answer)
    ask = prepare()
    folders: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as root:
        for text in sys.stdin:
            row = json.loads(text)
            told = json.dumps(config(row), indent=1)
            first = told not in folders
            if first:
                folders[told] = str(Path(root) / f"model-{len(folders)}")
                Path(folders[told]).mkdir()
                (Path(folders[told]) / "config.json").write_text(told, encoding="utf-8")
            started = time.perf_counter()
            found: dict[str, Any] = {"id": row["id"], "first": first}
            try:
                found["gib"] = ask(row, folders[told])
            except Exception as refusal:  # noqa: BLE001  (a rival may refuse in any way)
                found["refused"] = f"{type(refusal).__name__}: {refusal}"
            found["seconds"] = time.perf_counter() - started
            print(json.dumps(found), file=answer)


def run(name: str, rows: list[Row], site: str | None) -> tuple[str, list[dict[str, Any]]]:
    """Return a tool's version and its answers; an empty version where it is not installed."""
    command = [sys.executable, __file__, "--drive", name, *(("--site", site) if site else ())]
    given = "".join(json.dumps(row) + "\n" for row in rows)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    if done.returncode or not lines:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}", file=sys.stderr)
        return "", []
    return lines[0]["version"], lines[1:]


def summary(name: str, version: str, answers: list[dict[str, Any]], rows: list[Row]) -> str:
    """Return one line of the table."""
    peaks = {row["id"]: row["peak_gib"] for row in rows}
    errors = [found["gib"] / peaks[found["id"]] - 1 for found in answers if "gib" in found]
    if not errors:
        return f"| {name} | {version} | 0 of {len(rows)} | | | | | | |"
    sizes = sorted(abs(error) for error in errors)
    given = [found for found in answers if "gib" in found]
    seconds = median(found["seconds"] for found in [f for f in given if f["first"]] or given)
    near = sum(size <= 0.1 for size in sizes) / len(rows)
    return (
        f"| {name} | {version} | {len(errors)} of {len(rows)} | {median(sizes):.1%} "
        f"| {sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]:.1%} | {median(errors):+.1%} "
        f"| {max(errors, key=abs):+.0%} | {near:.0%} | {seconds:.4f} |"
    )


def choices(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each table: the complete, all, and those whose figure is one steady step's."""
    steady = [row for row in rows if row["group"] not in VAGUE]
    named = {"complete": [row for row in rows if row["confidence"] == "complete"], "all": rows}
    return named if len(steady) == len(rows) else {**named, f"all but {' and '.join(VAGUE)}": steady}


def main() -> int:
    """Print the tables of each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", help="site-packages of the rivals' environment")
    parser.add_argument("--rows", type=Path, nargs="+", default=[ROWS])
    parser.add_argument("--only", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--refusals", action="store_true", help="tell on standard error what was refused")
    parser.add_argument("--corrected", action="store_true", help="mend rows that were read wrongly")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.site:
        sys.path.append(asked.site)
    if asked.drive:
        drive(asked.drive)
        return 0
    for path in asked.rows:
        every = (
            correct(read_rows(path))
            if asked.corrected and path.resolve() == ROWS.resolve()
            else read_rows(path)
        )
        rows = [row for row in every if comparable(row)]
        answered = {name: run(name, rows, asked.site) for name in asked.only}
        for label, chosen in choices(rows).items():
            print(f"\n{path.name}, {label} rows\n\n{HEAD}")
            ids = {row["id"] for row in chosen}
            for name, (version, answers) in answered.items():
                if version:
                    print(summary(name, version, [a for a in answers if a["id"] in ids], chosen))
        for name, (_, answers) in answered.items():
            for reason in sorted({a["refused"] for a in answers if "refused" in a}) if asked.refusals else ():
                print(f"{name}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
