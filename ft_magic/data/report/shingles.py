"""Shingles: the overlapping runs of words by which texts are compared, as 64-bit hashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ft_magic.data.row import well_formed

SHINGLE_WORDS = 5  # as Lee et al. 2022, arXiv 2107.06499, section 4.2
_PUNCTUATION = ".,;:!?\"'()[]…、。，；：！？「」『』（）“”‘’"  # noqa: RUF001  full-width punctuation is meant
_SPACED = str.maketrans(dict.fromkeys(_PUNCTUATION, " "))
# Where words are longer than this on average there are no spaces between them (Chinese, Japanese, Thai, encoded
# data): characters are counted instead. The longest European averages stay below 10.
_LONGEST_MEAN_WORD_CHARACTERS = 20
# A run of words in more than a fifth of the rows is the frame of the data (a fixed instruction), not its content.
_FRAME_SHARE = 0.2
_FRAME_SAMPLE_ROWS = 2_000
_FRAME_LEAST_ROWS = 20
_MASK = (1 << 64) - 1
# One odd multiplier a place, so that a run is more than the set of its words (splitmix64's constants and powers).
_MULTIPLIERS = tuple((0x9E3779B97F4A7C15 * (2 * place + 1)) ** (place + 1) & _MASK for place in range(5))
_MIX = 0xBF58476D1CE4E5B9


@dataclass(frozen=True)
class Shingles:
    """Shingles of some texts, one text after another.

    Attributes:
        hashes: (shingles,) uint64.
        offsets: (texts + 1,) where each text's shingles begin; the last is their number.
    """

    hashes: Any
    offsets: Any

    def sets(self) -> list[frozenset[int]]:
        """Return the shingles of each text as a set."""
        hashes, ends = self.hashes.tolist(), self.offsets.tolist()
        return [frozenset(hashes[a:b]) for a, b in pairwise(ends)]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case without punctuation; its characters where it has no spaces."""
    lowered = text.lower()
    words = lowered.translate(_SPACED).split()
    if len(lowered) <= _LONGEST_MEAN_WORD_CHARACTERS * len(words):
        return words
    return [character for word in words for character in word]


def shingles_of(texts: Iterable[str], frame: Any = None) -> Shingles:
    """Return the shingles of texts; a text of fewer than five words is one shingle, one without words has none.

    Args:
        texts: the texts.
        frame: sorted hashes of shingles to leave out, see ``frame_of``.
    """
    import numpy as np
    from rensa import RMinHash

    flat: list[str] = []
    counts = []
    for text in texts:
        words = words_of(text)
        flat += words
        missing = max(SHINGLE_WORDS - len(words), 0) if words else 0
        flat += [""] * missing
        counts.append(max(len(words) + missing - SHINGLE_WORDS + 1, 0))
    size = np.array(counts, dtype=np.int64)
    if not flat:
        return Shingles(np.zeros(0, np.uint64), np.zeros(len(counts) + 1, np.uint64))
    try:
        hashed = RMinHash.hash_token_sets([flat])[0]
    except (
        UnicodeEncodeError
    ):  # half a character somewhere, which is rare: looking first would cost all others
        hashed = RMinHash.hash_token_sets([[well_formed(word) for word in flat]])[0]
    words_hashed = np.array(hashed, dtype=np.uint64)
    hashes = _runs(words_hashed)[_beginnings(size)]
    owner: Any = np.repeat(np.arange(len(counts)), size)
    if frame is not None and len(frame):
        content = ~np.isin(hashes, frame)
        hashes, owner = hashes[content], owner[content]
    ends = np.cumsum(np.bincount(owner, minlength=len(counts)))
    return Shingles(hashes, np.concatenate(([0], ends)).astype(np.uint64))


def frame_of(texts: Sequence[str]) -> Any:
    """Return the sorted hashes of shingles that belong to the frame of the data, not to its content."""
    import numpy as np

    each = [np.fromiter(found, np.uint64, len(found)) for found in shingles_of(texts).sets() if found]
    if len(each) < _FRAME_LEAST_ROWS:
        return np.zeros(0, np.uint64)
    values, rows = np.unique(np.concatenate(each), return_counts=True)
    return values[rows > max(_FRAME_SHARE * len(each), _FRAME_LEAST_ROWS)]


def frame_sample(count: int) -> range:
    """Return the indices, evenly spread, of the rows that tell the frame of ``count`` rows."""
    return spread(count, _FRAME_SAMPLE_ROWS)


def spread(count: int, most: int) -> range:
    """Return at most ``most`` indices below ``count``, evenly spread, the first one 0."""
    return range(0, count, max(1, -(-count // most)))


def similarity(first: frozenset[int], second: frozenset[int]) -> float:
    """Return the Jaccard similarity of two sets, from 0 to 1; of two empty ones 1."""
    together = len(first & second)
    return together / (len(first) + len(second) - together) if first or second else 1.0


def _runs(words: Any) -> Any:
    """Return a hash for the run of words that begins at each place but the last four."""
    import numpy as np

    end = len(words) - SHINGLE_WORDS + 1
    runs: Any = np.zeros(end, np.uint64)
    for place, factor in enumerate(_MULTIPLIERS):
        runs ^= words[place : end + place] * np.uint64(factor | 1)
        runs = (runs ^ (runs >> np.uint64(29))) * np.uint64(_MIX)
    return runs


def _beginnings(size: Any) -> Any:
    """Return where runs begin that lie inside one text, given the number of runs of each text."""
    import numpy as np

    words = np.where(size > 0, size + SHINGLE_WORDS - 1, 0)
    starts = np.cumsum(words) - words
    within = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(starts, size) + within
