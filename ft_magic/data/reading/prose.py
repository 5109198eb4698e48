"""Reads txt and md files as raw text."""

from __future__ import annotations

import statistics
from pathlib import Path

from ft_magic.data.reading.files import Raw, read_text, stem_of, suffix_of

# Prose wrapped by hand or by an editor stays below this; a document on one line is longer.
_LONGEST_WRAPPED_LINE_CHARACTERS = 200


def read_prose(path: Path) -> Raw:
    """Read one text file: a document a line, paragraphs between blank lines, or the sections of a md file."""
    text = read_text(path)
    if suffix_of(path) == ".md":
        parts = _sections(text)
        if len(parts) > 1:
            return Raw(stem_of(path), str(path), parts, ("one row a section (each heading starts one)",))
    parts, how = _paragraphs_or_lines(text)
    return Raw(stem_of(path), str(path), parts, (how,))


def _paragraphs_or_lines(text: str) -> tuple[list[str], str]:
    lines = [line for line in text.splitlines() if line.strip()]
    blocks = _blocks(text)
    if not lines:
        return [], "the file holds no text"
    wrapped = statistics.median(map(len, lines)) <= _LONGEST_WRAPPED_LINE_CHARACTERS
    if len(blocks) > 1 and wrapped:
        return blocks, "one row a paragraph (blank lines separate them)"
    return lines, "one row a line"


def _blocks(text: str) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


def _sections(text: str) -> list[str]:
    """Split markdown before each heading; a ``#`` inside fenced code is no heading."""
    sections: list[list[str]] = [[]]
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading = not fenced and line.startswith("#") and line.lstrip("#").startswith(" ")
        # A heading right after headings (a title and its first chapter) belongs to the same section.
        if heading and any(old.strip() and not old.startswith("#") for old in sections[-1]):
            sections.append([])
        sections[-1].append(line)
    joined = ("\n".join(section).strip() for section in sections)
    return [section for section in joined if section]
