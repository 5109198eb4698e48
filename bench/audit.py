"""Seconds the template audit takes: synthetic chat rows with the demo model's tokenizer.

    python bench/audit.py --rows 10000 100000

Prints a Markdown table. Rows have one to three exchanges of random words, about 250 tokens each.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from pathlib import Path

from ft_magic.data import Data
from ft_magic.models import resolve
from ft_magic.template import Tokenizer, check_template

_WORDS = [
    "the",
    "model",
    "answers",
    "a",
    "question",
    "about",
    "time",
    "and",
    "water",
    "while",
    "people",
    "read",
    "long",
    "lists",
    "of",
    "numbers",
    "in",
    "their",
    "notes",
    "because",
    "each",
    "small",
    "change",
    "of",
    "a",
    "value",
    "may",
    "give",
    "another",
    "result",
    "than",
    "expected",
    "when",
    "it",
    "is",
    "trained",
    "again",
]


def chats(count: int, seed: int = 0) -> Data:
    """Return chat rows of random words, the same for the same seed."""
    draw = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(draw.choices(_WORDS, k=words)).capitalize() + "."

    rows = []
    for _ in range(count):
        messages = []
        for _ in range(draw.randint(1, 3)):
            messages.append({"role": "user", "content": text(draw.randint(10, 60))})
            messages.append({"role": "assistant", "content": text(draw.randint(20, 120))})
        rows.append({"messages": messages})
    return Data(tuple(rows), "demo", "synthetic chats")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    arguments = parser.parse_args()
    folder = Path(arguments.model) if Path(arguments.model).is_dir() else resolve(arguments.model)
    tokenizer = Tokenizer.load(folder)
    print("| rows | tokens | seconds | cpu seconds | rows a second | peak memory, MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in arguments.rows:
        data = chats(count)
        began, cpu = time.perf_counter(), time.process_time()
        audit = check_template(tokenizer, data)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
        print(
            f"| {count:,} | {sum(audit.lengths):,} | {seconds:.1f} | {cpu_s:.1f} | {count / seconds:,.0f} | {peak:,.0f} |"
        )


if __name__ == "__main__":
    main()
