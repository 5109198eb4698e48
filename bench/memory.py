"""Score the memory estimator against published measurements, by source.

    python bench/memory.py [--engine closed] [--worst N] [--data DIR]

Each usable single-device row is estimated from its own settings, and compared in the metric it names, as
|estimated - measured| / measured; and out-of-memory labels, with their measured neighbours, as fits or not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from ft_magic.errors import FTError
from ft_magic.memory.cards import GIB, find_card
from ft_magic.memory.inverse import fits
from ft_magic.memory.memory import Memory
from ft_magic.memory.question import estimate_memory

Row = dict[str, Any]
MEASUREMENTS = "memory/measured_peaks.jsonl"


def rows(folder: Path) -> list[Row]:
    """Return the published rows."""
    text = (folder / MEASUREMENTS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def data_folder(given: str | None) -> Path:
    """Return where the measurements are: as given, ``FT_MAGIC_DATA``, or beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(given or os.environ.get("FT_MAGIC_DATA") or beside)


def scored(row: Row) -> bool:
    """Return whether a row counts: usable, measured whole, on one device."""
    return bool(row["usable"]) and row["n_gpus"] == 1 and row["kind"] == "measured"


def percentile(values: list[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def line(name: str, errors: list[float]) -> str:
    """Return one line of the table."""
    sizes = [abs(error) for error in errors]
    worst = max(errors, key=abs)
    return (
        f"| {name} | {len(errors)} | {median(sizes):.1%} | {percentile(sizes, 0.9):.1%} "
        f"| {median(errors):+.1%} | {worst:+.1%} |"
    )


def table(found: dict[str, list[float]]) -> str:
    """Return the score table in Markdown."""
    head = "| source | rows | median | 90th percentile | bias | worst |\n|---|---|---|---|---|---|"
    every = [error for errors in found.values() for error in errors]
    return "\n".join([head, *(line(name, found[name]) for name in sorted(found)), line("all", every)])


def verdicts(labelled: list[tuple[Row, Memory]]) -> str:
    """Return how many out-of-memory labels, and measured rows beside them, the fit decision gets right."""
    right = {"out of memory": [0, 0], "fitted": [0, 0]}
    for row, memory in labelled:
        card = find_card(str(row["gpu"]))
        kind = "out of memory" if row["kind"] == "oom" else "fitted"
        right[kind][0] += fits(memory, card) == (kind == "fitted")
        right[kind][1] += 1
    return ", ".join(f"{kind}: {good} of {count} right" for kind, (good, count) in right.items())


def main() -> int:
    """Print the table, the verdicts and the slowest estimate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engine", default="closed", choices=("closed", "trace"))
    parser.add_argument("--worst", type=int, default=0, help="list the N worst rows")
    parser.add_argument("--data", help="folder with the measurements")
    asked = parser.parse_args()
    by_source: dict[str, list[float]] = defaultdict(list)
    ranked: list[tuple[float, str]] = []
    labelled: list[tuple[Row, Memory]] = []
    spent: list[float] = []
    complete: dict[str, list[float]] = defaultdict(list)
    for row in rows(data_folder(asked.data)):
        label = row["kind"] == "oom" and row["n_gpus"] == 1
        if not (scored(row) or label):
            continue
        started = time.perf_counter()
        try:
            memory = estimate_memory(record=row, engine=asked.engine)
        except FTError as refusal:
            print(f"{row['id']}: {refusal.problem}", file=sys.stderr)
            continue
        spent.append(time.perf_counter() - started)
        if label or row["group"] == "fms_acceleration":
            labelled.append((row, memory))
        if not label:
            error = memory.peak_bytes / GIB / row["peak_gib"] - 1
            by_source[row["group"]].append(error)
            ranked.append((error, row["id"]))
            if row["confidence"] == "complete":
                complete["complete rows"].append(error)
    print(table(by_source))
    print(line("complete rows alone", complete["complete rows"]))
    print(f"\nFit on the card: {verdicts(labelled)}.")
    print(f"An estimate takes {median(spent) * 1e3:.1f} ms, the slowest {max(spent) * 1e3:.1f} ms.")
    for error, name in sorted(ranked, key=lambda pair: -abs(pair[0]))[: asked.worst]:
        print(f"{name}: {error:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
