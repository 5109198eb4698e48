"""Small data sets that ship with the package (Apache-2.0, written for it)."""

from __future__ import annotations

from pathlib import Path

from ft_magic.errors import DataError, nearest

NAMES = {
    "triage": "triage.jsonl",
    "triage_heldout": "triage_heldout.jsonl",
    "triage_pairs": "triage_pairs.jsonl",
    "handbook": "handbook.txt",
    "preferences": "preferences.jsonl",
    "preferences_heldout": "preferences_heldout.jsonl",
    "sums": "sums.jsonl",
    "sums_heldout": "sums_heldout.jsonl",
}


def path(name: str) -> Path:
    """Return the file of a sample data set.

    ``triage`` and ``triage_heldout`` hold demonstrations (a customer message and its triage as JSON),
    ``triage_pairs`` preferences for the same task, ``handbook`` raw text; ``preferences`` and ``preferences_heldout``
    a shop's messages with a better and a worse answer, ``sums`` and ``sums_heldout`` prompts with the right number.

    Raises:
        DataError: no such sample.
    """
    if name not in NAMES:
        raise DataError(
            f"There is no sample data set '{name}'.{nearest(name, NAMES)}",
            f"Choose one of: {', '.join(NAMES)}.",
        )
    return Path(__file__).with_name(NAMES[name])
