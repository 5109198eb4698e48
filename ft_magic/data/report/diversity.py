"""Diversity: how much answers differ in their words, and whether they all begin alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ft_magic.data.report.finding import Finding
from ft_magic.data.report.shingles import spread, words_of
from ft_magic.data.row import Row, answer_text, prompt_text

# distinct-n falls as texts grow: it is taken over a number of words that does not depend on the data's size.
_COUNTED_WORDS = 20_000
_SAMPLE_ROWS = 2_000
_OPENING_WORDS = 5
_LEAST_WORDS = 8  # shorter answers are labels and names, which repeat by right
_LEAST_ANSWERS = 20
_MOST_SHARED_OPENING = 0.5
_NOTED_SHARE = 0.05
# Over 20,000 words of answers: demo sets of Alpaca, GSM8K, DPO and KTO rows 0.64 to 0.73, forty sentences with two
# names to fill in 0.10 (measured).
_LEAST_DISTINCT = 0.2
_STRUCTURE = ("{", "[", "<", "```")
_LEAST_COUNTED_WORDS = 2_000  # fewer words say nothing about it


@dataclass(frozen=True)
class Diversity:
    """How much answers (texts, or prompts where there are no answers) differ; JSON and markup do not count.

    Attributes:
        distinct_2: different pairs of neighbouring words as a share of all, 0 to 1, over at most 20,000 words
            (distinct-2 of Li et al. 2016, arXiv 1510.03055).
        words: words it was counted over.
        answers: answers of at least eight words that were looked at.
        opening: the commonest first five words.
        opening_share: share of those answers that begin with them.
        openings: indices of the first rows that do.
        looked_at: rows looked at, evenly spread.
    """

    distinct_2: float
    words: int
    answers: int
    opening: str
    opening_share: float
    openings: tuple[int, ...]
    looked_at: int

    def __str__(self) -> str:
        often = self.opening_share >= _NOTED_SHARE
        opening = f"; {100 * self.opening_share:.0f} % begin '{self.opening}'" if often else ""
        return f"diversity: distinct-2 {self.distinct_2:.2f} over {self.words} words{opening}"


def diversity_of(rows: Sequence[Row]) -> Diversity | None:
    """Return the diversity of answers; None where there are no words."""
    sample = spread(len(rows), _SAMPLE_ROWS)
    words = [words_of(_prose(rows[index])) for index in sample]
    pairs: Counter[tuple[str, str]] = Counter()
    counted = 0
    for said in words:
        if counted >= _COUNTED_WORDS:
            break
        pairs.update(pairwise(said))
        counted += len(said)
    if not pairs:
        return None
    begun = [
        (index, " ".join(said[:_OPENING_WORDS]))
        for index, said in zip(sample, words, strict=True)
        if len(said) >= _LEAST_WORDS
    ]
    opening, often = Counter(first for _, first in begun).most_common(1)[0] if begun else ("", 0)
    rows_with_it = tuple(index for index, first in begun if first == opening)
    share = often / len(begun) if begun else 0.0
    return Diversity(
        len(pairs) / pairs.total(), counted, len(begun), opening, share, rows_with_it[:3], len(sample)
    )


def _prose(row: Row) -> str:
    """Return what a row answers; empty for JSON and markup, whose words repeat by right."""
    text = answer_text(row) or prompt_text(row)
    return "" if text.lstrip().startswith(_STRUCTURE) else text


def diversity_findings(found: Diversity | None) -> list[Finding | None]:
    """Return the findings about answers that are nearly all alike."""
    if found is None or found.answers < _LEAST_ANSWERS:
        return []
    made: list[Finding | None] = []
    fix = "collect other examples, or data.fix('near_duplicates')"
    if found.opening_share > _MOST_SHARED_OPENING:
        message = (
            f"{100 * found.opening_share:.0f} % of answers begin '{found.opening}' ({found.answers} looked at): "
            "the model will begin so whatever it is asked."
        )
        count = round(found.opening_share * found.answers)
        made.append(Finding("openings", "warning", count, message, found.openings, "vary how answers begin"))
    if found.distinct_2 < _LEAST_DISTINCT and found.words >= _LEAST_COUNTED_WORDS:
        message = (
            f"Answers are nearly all alike: {100 * found.distinct_2:.0f} % of their word pairs are different ones "
            f"(distinct-2 over {found.words} words)."
        )
        made.append(Finding("diversity", "warning", found.answers, message, (), fix))
    return made
