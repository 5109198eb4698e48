"""Score the memory estimator against published peaks that were collected before it had seen one of them.

    python bench/memory_heldout.py [--engine closed] [--worst N] [--rows FILE] [--corrected]

The rows are in ``bench/data``, whose README says how to read them and what was mended since the first score. With
``--corrected``, settings that were read wrongly from their sources are mended first, each for a reason given there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from ft_magic.errors import FTError
from ft_magic.memory.cards import GIB, find_card
from ft_magic.memory.inverse import fits
from ft_magic.memory.question import estimate_memory

Row = dict[str, Any]
ROWS = Path(__file__).parent / "data" / "published_peaks.jsonl"
CORRECTIONS = ROWS.with_name("corrections.json")
# Tables whose figure is not the peak of one steady step: see the README beside the rows.
VAGUE = ("ms_swift", "qwen_readme")
HEAD = "| rows | count | median | 90th percentile | bias | worst |\n|---|---|---|---|---|---|"


def read_rows(path: Path = ROWS) -> list[Row]:
    """Return the published rows of a file."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def correct(rows: list[Row], path: Path = CORRECTIONS) -> list[Row]:
    """Return the rows with the corrections of a file."""
    mended = {row["id"]: dict(row) for row in rows}
    for correction in json.loads(path.read_text(encoding="utf-8")):
        for name in correction["rows"]:
            row = mended[name]
            for key, value in correction["set"].items():
                row[key] = {**row[key], **value} if isinstance(value, dict) else value
    return list(mended.values())


def errors(rows: list[Row], engine: str = "closed") -> dict[str, float]:
    """Return the signed relative error of each scored row, by its id; a refused row is told on stderr."""
    found = {}
    for row in rows:
        if row["kind"] != "measured" or not row["usable"]:
            continue
        try:
            memory = estimate_memory(record=row, engine=engine)
        except FTError as refusal:
            print(f"{row['id']}: {refusal.problem}", file=sys.stderr)
            continue
        found[row["id"]] = memory.peak_bytes / GIB / row["peak_gib"] - 1
    return found


def summary(name: str, values: list[float]) -> str:
    """Return one line of the table."""
    sizes = sorted(abs(value) for value in values)
    high = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    worst = max(values, key=abs)
    return f"| {name} | {len(values)} | {median(sizes):.1%} | {high:.1%} | {median(values):+.1%} | {worst:+.1%} |"


def verdicts(rows: list[Row], engine: str = "closed") -> list[str]:
    """Return, for each label, whether the fit decision agrees with it."""
    lines = []
    for row in rows:
        if row["kind"] not in ("oom", "fits"):
            continue
        memory = estimate_memory(record=row, engine=engine)
        said = "fits" if fits(memory, find_card(str(row["gpu"]))) else "oom"
        word = "right" if said == row["kind"] else "wrong"
        lines.append(f"{row['id']}: {row['kind']} on {row['gpu']}, {memory.peak_bytes / GIB:.1f} GiB: {word}")
    return lines


def table(rows: list[Row], found: dict[str, float]) -> str:
    """Return the table in Markdown: by source and completeness, and the sums."""
    groups: dict[str, list[float]] = defaultdict(list)
    sums: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["id"] not in found:
            continue
        error = found[row["id"]]
        groups[f"{row['group']}, {row['confidence']}"].append(error)
        sums[f"**{row['confidence']}**"].append(error)
        sums["**all**"].append(error)
        if row["group"] not in VAGUE:
            sums[f"**all but {', '.join(VAGUE)}**"].append(error)
    lines = [summary(name, groups[name]) for name in sorted(groups)]
    return "\n".join([HEAD, *lines, *(summary(name, values) for name, values in sums.items())])


def main() -> int:
    """Print the table, the verdicts and the worst rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="closed", choices=("closed", "trace"))
    parser.add_argument("--worst", type=int, default=0, help="list the N worst rows")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--corrected", action="store_true", help="mend settings that were read wrongly")
    asked = parser.parse_args()
    rows = correct(read_rows(asked.rows)) if asked.corrected else read_rows(asked.rows)
    found = errors(rows, asked.engine)
    print(table(rows, found), "", *verdicts(rows, asked.engine), sep="\n")
    for name in sorted(found, key=lambda name: -abs(found[name]))[: asked.worst]:
        print(f"{name}: {found[name]:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
