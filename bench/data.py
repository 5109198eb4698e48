"""How long reading, normalising and the report card take, and how much memory, by number of rows of 1 KB.

    python bench/data.py [--rows 10000,100000,1000000] [--folder FOLDER] [--seed 0]

Rows are made of random words; one in twenty is an exact copy of an earlier row, one in ten a near-duplicate (two
words of it replaced). Each size runs in a process of its own; its peak memory is that process's largest resident set.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

EXACT_SHARE, NEAR_SHARE = 0.05, 0.10
PROMPT_WORDS, ANSWER_WORDS, REPLACED_WORDS = 60, 100, 2
VOCABULARY = 20_000
REMEMBERED_ROWS = 1_000  # copies are of one of the last so many rows
SIZES = "10000,100000"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=SIZES, help="sizes, separated by commas")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the made files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measured(Path(asked.measure))))
        return
    print(f"cores {os.cpu_count()}, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
    print(
        "| rows | MB | read + normalise s | report s | total s | µs a row | peak GiB | exact found | near recall | near precision |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for count in map(int, asked.rows.replace("_", "").split(",")):
        path = Path(asked.folder) / f"ft_magic_rows_{count}_{asked.seed}.jsonl"
        truth = make(path, count, asked.seed)
        try:
            command = [sys.executable, __file__, "--measure", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(line(json.loads(done.stdout.splitlines()[-1]), truth), flush=True)
        finally:
            path.unlink()


def make(path: Path, count: int, seed: int) -> dict[str, set[int]]:
    """Write rows and return which are exact copies and which are near-duplicates."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(VOCABULARY)]
    truth: dict[str, set[int]] = {"exact": set(), "near": set()}
    last: deque[tuple[list[str], list[str]]] = deque(maxlen=REMEMBERED_ROWS)
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            kind = rng.random()
            if last and kind < EXACT_SHARE + NEAR_SHARE:
                prompt, answer = last[rng.randrange(len(last))]
                if kind < EXACT_SHARE:
                    truth["exact"].add(index)
                else:
                    truth["near"].add(index)
                    answer = list(answer)
                    for place in rng.sample(range(ANSWER_WORDS), REPLACED_WORDS):
                        answer[place] = rng.choice(words)
            else:
                prompt, answer = rng.choices(words, k=PROMPT_WORDS), rng.choices(words, k=ANSWER_WORDS)
                last.append((prompt, answer))
            file.write(json.dumps({"instruction": said(prompt, "?"), "output": said(answer, ".")}) + "\n")
    return truth


def said(words: list[str], end: str) -> str:
    """Return words as sentences of eight."""
    return " ".join(" ".join(words[i : i + 8]).capitalize() + end for i in range(0, len(words), 8))


def measured(path: Path) -> dict[str, object]:
    """Read and report in this process; return seconds, bytes and the rows found."""
    from ft_magic import load_data

    begun = time.perf_counter()
    data = load_data(str(path))
    read = time.perf_counter()
    report = data.report()
    ended = time.perf_counter()
    found = {finding.name: finding.rows for finding in report.findings}
    return {
        "rows": len(data),
        "bytes": path.stat().st_size,
        "read_s": read - begun,
        "report_s": ended - read,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "exact": list(found.get("duplicates", ())),
        "near": list(found.get("near_duplicates", ())),
    }


def line(result: dict, truth: dict[str, set[int]]) -> str:
    exact, near = set(result["exact"]), set(result["near"])
    total_s = result["read_s"] + result["report_s"]
    # A copy of a row that was itself replaced may be found either way; both are right.
    right = near & (truth["near"] | truth["exact"])
    cells = (
        f"{result['rows']:,}", f"{result['bytes'] / 1e6:.0f}", f"{result['read_s']:.1f}", f"{result['report_s']:.1f}",
        f"{total_s:.1f}", f"{1e6 * total_s / result['rows']:.0f}", f"{result['peak_bytes'] / 2**30:.2f}",
        f"{len(exact & truth['exact'])}/{len(truth['exact'])}",
        f"{len(near & truth['near']) / max(len(truth['near']), 1):.4f}", f"{len(right) / max(len(near), 1):.4f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
