"""Which rows are most like a question: BM25 over words (Robertson and Zaragoza 2009). Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from ft_magic.data.facts import words_of

_K1, _B = 1.2, 0.75  # Lucene's defaults (BM25Similarity)


class Nearest:
    """An index of texts.

    Args:
        texts: what is searched.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        lengths = [found.total() for found in counts]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._norms = [_K1 * (1 - _B + _B * length / mean) for length in lengths]
        self._places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for place, found in enumerate(counts):
            for word, times in found.items():
                self._places[word].append((place, times))

    def order(self, query: str, most: int) -> list[int]:
        """Return the places of the texts most like a query, the best first; of equal ones the earlier first.

        Texts that share no word with the query are not among them, so there may be fewer than ``most``.
        """
        scores: defaultdict[int, float] = defaultdict(float)
        for word in set(words_of(query)):
            found = self._places.get(word, [])
            rarity = math.log(1 + (len(self._norms) - len(found) + 0.5) / (len(found) + 0.5))
            for place, times in found:
                scores[place] += rarity * times * (_K1 + 1) / (times + self._norms[place])
        return sorted(scores, key=lambda place: (-scores[place], place))[:most]
