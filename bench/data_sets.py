"""What the report card and the template audit find in real data sets, every row of them.

python bench/data_sets.py [--model demo]

Data: $FT_MAGIC_DATA, else a folder shared/data beside the checkout. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import ft_magic as ft

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FT_MAGIC_DATA", ROOT.parent / "shared" / "data"))


def line(path: Path, model: str) -> str:
    """Return the row of one file."""
    begun = time.monotonic()
    data = ft.load_data(path)
    report = data.report()
    looked = time.monotonic()
    audit = ft.check_template(model, data)
    ended = time.monotonic()
    found = "; ".join(f"{finding.name} {finding.count}" for finding in report.findings) or "nothing"
    faults = "; ".join(f"{f.name} {f.count}" for f in audit.findings if f.level != "info") or "nothing"
    share = 100 * sum(audit.trained) / sum(audit.lengths)
    cells = [
        f"`{path.name}`", f"{len(data):,} {data.signal}", found, f"{looked - begun:.1f}",
        f"{audit.verdict}: {faults}", f"{share:.0f} %", f"{ended - looked:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    asked = parser.parse_args()
    files = [path for path in sorted(DATA.iterdir()) if path.suffix in (".json", ".jsonl", ".txt")]
    if not files:
        raise SystemExit(f"No data in {DATA}: set FT_MAGIC_DATA to a folder of json, jsonl or txt files.")
    print("| file | rows | findings | s | template | trained | s |\n|---|---|---|---:|---|---:|---:|")
    for path in files:
        print(line(path, asked.model), flush=True)


if __name__ == "__main__":
    main()
