"""Documents as passages short enough to ask about."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ft_magic.data import load_data
from ft_magic.errors import DataError

# About 400 tokens of English: with request and reply a passage stays within a context of 2,048.
_LONGEST_CHARACTERS = 1600
_SHORTEST_CHARACTERS = 60  # a heading or a page number answers no question
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w{4,}")  # shorter words are mostly grammar


@dataclass(frozen=True)
class Passage:
    """Part of a document.

    Attributes:
        document: number of the document it is from, from 0.
        start: its place in the document, in characters.
        text: the passage.
    """

    document: int
    start: int
    text: str

    def supports(self, answer: str) -> float:
        """Return the share of the answer's words of four letters and more that stand in the passage, 0 to 1."""
        words = set(_WORD.findall(answer.lower()))
        return len(words & set(_WORD.findall(self.text.lower()))) / len(words) if words else 1.0


def passages_of(documents: Any) -> tuple[list[Passage], str]:
    """Return the passages of documents, and a sentence that says what was taken.

    Args:
        documents: texts, or anything ``load_data`` reads as raw text.

    Raises:
        DataError: they cannot be read, or hold no passage long enough.
    """
    data = load_data([documents] if _is_text(documents) else documents, signal="text")
    found: list[Passage] = []
    short = 0
    for number, row in enumerate(data.rows):
        for start, text in _pieces(row["text"]):
            if len(text) < _SHORTEST_CHARACTERS:
                short += 1
            else:
                found.append(Passage(number, start, text))
    if not found:
        raise DataError(
            f"{data.name} holds no passage of {_SHORTEST_CHARACTERS} characters to ask about.",
            "Give longer documents.",
        )
    left = f"; {short} shorter than {_SHORTEST_CHARACTERS} characters left out" if short else ""
    return found, f"{len(found)} passages of {len(data)} documents from {data.source}{left}"


def _is_text(documents: Any) -> bool:
    """Tell a document itself from a path: it has line breaks or is longer than any path."""
    return isinstance(documents, str) and ("\n" in documents or len(documents) > 1024)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield (start, piece) of a text: whole paragraphs together, long ones cut at ends of sentences."""
    begun: int | None = None
    end = 0
    for start, stop in _units(text):
        if begun is not None and stop - begun > _LONGEST_CHARACTERS:
            yield begun, text[begun:end].strip()
            begun = None
        begun = start if begun is None else begun
        end = stop
    if begun is not None:
        yield begun, text[begun:end].strip()


def _units(text: str) -> Iterator[tuple[int, int]]:
    """Yield the bounds of paragraphs, of sentences in long paragraphs, of equal parts in endless sentences."""
    for paragraph in re.finditer(r"(?:(?!\n\s*\n).)+", text, re.DOTALL):
        start, stop = paragraph.span()
        if stop - start <= _LONGEST_CHARACTERS:
            yield start, stop
            continue
        cuts = [start, *(start + match.end() for match in _SENTENCE_END.finditer(paragraph[0])), stop]
        for left, right in itertools.pairwise(cuts):
            for place in range(left, right, _LONGEST_CHARACTERS):
                yield place, min(place + _LONGEST_CHARACTERS, right)
