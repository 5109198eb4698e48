"""Score the memory estimator against published measurements, by source.

    python bench/memory.py [--engine closed] [--worst N] [--data DIR] [--sample N] [--seed N] [--cache FILE]

The tracer takes about a second a row on a quiet core: ``--sample`` takes some rows of each source, the same for the
same seed, and ``--cache`` keeps each answer, so that a run goes on where it was stopped. Answers are kept under the
row, the code of the estimator and the versions of the libraries it traces.

Each usable single-device row is estimated from its own settings, and compared in the metric it names, as
|estimated - measured| / measured; and out-of-memory labels, with their measured neighbours, as fits or not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from ft_magic.errors import FTError
from ft_magic.memory.cards import GIB, find_card
from ft_magic.memory.inverse import fits
from ft_magic.memory.memory import Memory
from ft_magic.memory.question import estimate_memory

Row = dict[str, Any]
MEASUREMENTS = "memory/measured_peaks.jsonl"
ESTIMATOR = Path(__file__).resolve().parents[1] / "ft_magic" / "memory"
TRACED_LIBRARIES = ("torch", "transformers", "trl", "peft")


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


def sampled(found: list[Row], count: int | None, seed: int) -> list[Row]:
    """Return ``count`` rows of each source, in their order; all of them for None."""
    if count is None:
        return found
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        by_source[row["group"]].append(row)
    chosen = {
        row["id"]
        for source in by_source.values()
        for row in Random(seed).sample(source, min(count, len(source)))
    }
    return [row for row in found if row["id"] in chosen]


def _kept(text: str) -> tuple[str, Any] | None:
    """Return a key and its answer from a line of the cache; None for a line that a stopped run left unfinished."""
    try:
        key, answer = json.loads(text)
    except ValueError:
        print(f"not an answer, left out: {text[:60]}", file=sys.stderr)
        return None
    return key, answer


class Answers:
    """Estimates, kept in a file of JSON lines where one is named.

    Args:
        engine: of the estimates.
        file: where they are kept; None keeps none.
    """

    def __init__(self, engine: str, file: Path | None) -> None:
        self._engine = engine
        self._file = file
        code = b"".join(path.read_bytes() for path in sorted(ESTIMATOR.rglob("*.py")))
        versions = [version(name) for name in TRACED_LIBRARIES] if engine == "trace" else []
        self._stand = f"{engine} {versions} {hashlib.sha256(code).hexdigest()}"
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        self._known: dict[str, Any] = dict(filter(None, map(_kept, lines)))

    def of(self, row: Row) -> Memory:
        """Return the estimate of a row.

        Raises:
            FTError: the engine refuses the row.
        """
        text = f"{self._stand} {json.dumps(row, sort_keys=True)}"
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = self._asked(row)
            if self._file:
                with self._file.open("a", encoding="utf-8") as kept:
                    kept.write(f"{json.dumps([key, self._known[key]])}\n")
        answer = self._known[key]
        if "problem" in answer:
            raise FTError(answer["problem"])
        return Memory(**answer | {"error": tuple(answer["error"]), "notes": tuple(answer["notes"])})

    def _asked(self, row: Row) -> Mapping[str, Any]:
        try:
            found = estimate_memory(record=row, engine=self._engine)
        except FTError as refusal:
            return {"problem": refusal.problem}
        return asdict(found) | {"parts": dict(found.parts)}


def labelled_oom(row: Row) -> bool:
    """Return whether a row says that its settings ran out of one device's memory."""
    return bool(row["kind"] == "oom" and row["n_gpus"] == 1)


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
    parser.add_argument("--sample", type=int, help="rows of each source; all where not given")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--cache", type=Path, help="file that answers are kept in")
    asked = parser.parse_args()
    if asked.engine == "trace":
        import torch  # noqa: F401  rows are traced here, not in a process each

    answers = Answers(asked.engine, asked.cache)
    by_source: dict[str, list[float]] = defaultdict(list)
    ranked: list[tuple[float, str]] = []
    labelled: list[tuple[Row, Memory]] = []
    spent: list[float] = []
    complete: dict[str, list[float]] = defaultdict(list)
    counted = [row for row in rows(data_folder(asked.data)) if scored(row) or labelled_oom(row)]
    for row in sampled(counted, asked.sample, asked.seed):
        label = labelled_oom(row)
        started = time.perf_counter()
        try:
            memory = answers.of(row)
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
