"""Make the preference sample: messages to a small shop with an answer it wants and one it does not.

``python -m ft_magic.samples.make_preferences`` writes the files beside this script; the seed is fixed, so they are
the same every time. Everything here was written for this package (Apache-2.0).

The better answer is kind, short and names the next step; the worse one is rude, evasive or rambling, a third of each,
so that neither length nor a single word tells them apart. No matter of the held-out file occurs in training.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from ft_magic.samples.preference_words import EVASIVE, HELD_OUT, RAMBLING, RUDE, TRAIN, Case

SEED = 20261122
KINDS = (RUDE, EVASIVE, RAMBLING)


def pairs(cases: Sequence[Case], rng: random.Random) -> list[dict[str, str]]:
    """Return a preference row for each wording of each case, in random order; kinds of bad answers take turns."""
    bad = [_endless(kind, rng) for kind in KINDS]
    rows: list[dict[str, str]] = []
    for case in cases:
        for asked in case.asked:
            worse = next(bad[len(rows) % len(bad)]).format(about=case.about)
            rows.append({"prompt": asked, "chosen": case.good, "rejected": worse[0].upper() + worse[1:]})
    rng.shuffle(rows)
    return rows


def _endless(texts: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Yield texts in random order again and again; none comes twice before all have come."""
    while True:
        yield from rng.sample(texts, len(texts))


def write(folder: Path) -> None:
    """Write the two JSON-lines files into ``folder``."""
    rng = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
    for name, cases in (("preferences.jsonl", TRAIN), ("preferences_heldout.jsonl", HELD_OUT)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in pairs(cases, rng))
        (folder / name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
