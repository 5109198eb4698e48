"""Near-duplicates: rows that say nearly the same, found by MinHash and checked by their real similarity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.report.shingles import frame_of, frame_sample, shingles_of, similarity
from ft_magic.data.row import MODEL_FIELDS, Row, answer_text
from ft_magic.errors import DataError
from ft_magic.progress import Progress, silent

ALIKE = 0.8  # Jaccard similarity from which texts count as near-duplicates: Lee et al. 2022, arXiv 2107.06499
# Rows that share a long prompt but not the answer say different things.
_ANSWERS_ALIKE = 0.5
# 21 bands of 6 hashes meet pairs of similarity 0.8 with probability 1 - (1 - 0.8^6)^21 = 0.998, of 0.5 with 0.28;
# the real similarity decides. 128 hashes, of which 126 are used: rensa is fastest at powers of two.
_HASHES, _BANDS, _HASHES_A_BAND = 128, 21, 6
_CHUNK_ROWS = 4_096
_CHECKED_CANDIDATES = 5  # a row's, the likeliest first; more only costs time where many rows are alike
_SEED = 1
INSTALL = 'pip install "ft-magic[data]"'


@dataclass(frozen=True)
class Match:
    """A row that resembles another one.

    Attributes:
        row: index of the row.
        like: index of the earlier row it resembles.
        similarity: share of common shingles, 0 to 1.
    """

    row: int
    like: int
    similarity: float


def can_look() -> bool:
    """Tell whether the packages for it are installed."""
    return find_spec("rensa") is not None and find_spec("numpy") is not None


def near_duplicates(
    rows: Sequence[Row], skip: Collection[int] = (), progress: Progress = silent
) -> list[Match]:
    """Return the rows that nearly equal an earlier one, in order.

    Texts are compared without system turns and without what a fifth of all rows share; answers must be alike
    too, labels equal.

    Args:
        rows: the rows.
        skip: indices of rows to leave out, such as exact duplicates.
        progress: told how far it is, in rows.

    Raises:
        DataError: a package is missing.
    """
    found = near_matches_within(rows, skip, progress)
    return _first_of_each(match for match in found if _answers_agree(rows[match.row], rows[match.like]))


def near_matches_within(
    rows: Sequence[Row], skip: Collection[int] = (), progress: Progress = silent
) -> list[Match]:
    """Return the rows that nearly equal an earlier one, whatever the answers and labels, with up to five such.

    Raises:
        DataError: a package is missing.
    """
    kept = [index for index in range(len(rows)) if index not in skip]
    return _matches(rows, kept, len(rows), progress)


def near_matches(
    rows: Sequence[Row], others: Sequence[Row], skip: Collection[int] = (), progress: Progress = silent
) -> list[Match]:
    """Return the rows that nearly equal one of other rows, whatever the answers; ``like`` indexes the others.

    Raises:
        DataError: a package is missing.
    """
    both = [*others, *rows]
    kept = [*range(len(others)), *(len(others) + i for i in range(len(rows)) if i not in skip)]
    found = _matches(both, kept, len(others), progress)
    return _first_of_each(Match(match.row - len(others), match.like, match.similarity) for match in found)


def near_finding(matches: Sequence[Match]) -> Finding | None:
    """Return the finding about near-duplicates, None where there are none."""
    shown = ", ".join(f"{m.row} resembles {m.like} by {100 * m.similarity:.0f} %" for m in matches[:3])
    message = (
        f"{{n}} nearly equal to an earlier one ({100 * ALIKE:.0f} % or more of their five-word runs shared): "
        f"{shown}."
    )
    return finding_of(
        "near_duplicates", "warning", [m.row for m in matches], message, "data.fix('near_duplicates')"
    )


def compared_text(row: Mapping[str, Any]) -> str:
    """Return what of a row is compared: all a model is given, without system turns."""
    parts: list[str] = []
    for name in MODEL_FIELDS:
        value = row.get(name)
        if isinstance(value, str):
            parts.append(value)
        elif value:
            parts += [turn["content"] or "" for turn in value if turn["role"] != "system"]
    return "\n".join(parts)


def _matches(rows: Sequence[Row], kept: Sequence[int], reference: int, progress: Progress) -> list[Match]:
    """Return rows that resemble a row before them whose index is below ``reference``, the likest first.

    With a reference smaller than the number of rows only rows from there on are looked up.
    """
    if not can_look():
        raise DataError("Near-duplicates need the packages rensa and numpy, one is not installed.", INSTALL)
    sample = frame_sample(len(kept))
    frame = frame_of([compared_text(rows[kept[place]]) for place in sample])
    index, bands = _signatures(rows, kept, frame, progress)
    pairs = _candidates(bands, index, reference, len(rows))
    progress("comparing rows that look alike", 0, 0)
    return list(_checked(rows, pairs, frame))


def _signatures(rows: Sequence[Row], kept: Sequence[int], frame: Any, progress: Progress) -> tuple[Any, Any]:
    """Return (indices of the rows with content, their band hashes as (bands, rows) uint64)."""
    import numpy as np
    from rensa import RMinHash

    indices: list[Any] = [np.zeros(0, np.int64)]
    bands: list[Any] = [np.zeros((_BANDS, 0), np.uint64)]
    odd = [(2 * place + 1) * 0x9E3779B97F4A7C15 % 2**64 for place in range(_HASHES_A_BAND)]
    weights = np.array(odd, np.uint64)
    for start in range(0, len(kept), _CHUNK_ROWS):
        part = kept[start : start + _CHUNK_ROWS]
        made = shingles_of((compared_text(rows[index]) for index in part), frame)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(made.hashes, made.offsets, _HASHES, _SEED)
        digests = np.array(matrix.to_rows(), dtype=np.uint64)[:, : _BANDS * _HASHES_A_BAND]
        banded = digests.reshape(len(part), _BANDS, _HASHES_A_BAND)
        filled = np.diff(made.offsets.astype(np.int64)) > 0
        indices.append(np.array(part, np.int64)[filled])
        bands.append((banded * weights).sum(axis=2, dtype=np.uint64)[filled].T)
        progress("looking for near-duplicates", start + len(part), len(kept))
    return np.concatenate(indices), np.concatenate(bands, axis=1)


def _candidates(bands: Any, index: Any, reference: int, count: int) -> Any:
    """Return (pairs, 2) of (row, earlier row) that share a band, for each row the likeliest first.

    A row meets only the first reference row of its bucket and the last one before it: the cost grows with the
    number of rows even where thousands are alike.
    """
    import numpy as np

    found: list[Any] = [np.zeros(0, np.int64)]
    place = np.arange(len(index))
    for hashes in bands:
        order = np.argsort(hashes, kind="stable")
        ordered, rows = hashes[order], index[order]
        new: Any = np.ones(len(order), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        start = np.maximum.accumulate(np.where(new, place, 0))
        usable = rows < reference
        last = np.concatenate(([-1], np.maximum.accumulate(np.where(usable, place, -1))[:-1]))
        asked = ~new & ((rows >= reference) if reference < count else True)
        for like, good in ((start, usable[start]), (last, last >= start)):
            chosen = asked & good
            found.append(rows[chosen] * count + rows[like[chosen]])
    codes, shared = np.unique(np.concatenate(found), return_counts=True)
    best = np.lexsort((-shared, codes // count))
    return np.stack((codes[best] // count, codes[best] % count), axis=1)


def _checked(rows: Sequence[Row], pairs: Any, frame: Any) -> Iterator[Match]:
    """Yield for each row those of its candidates that really are alike, in the order of rows."""
    import numpy as np

    begins = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    for start in range(0, len(begins), _CHUNK_ROWS):
        first = begins[start]
        after = begins[start + _CHUNK_ROWS] if start + _CHUNK_ROWS < len(begins) else len(pairs)
        likes: dict[int, list[int]] = {}
        for row, like in pairs[first:after].tolist():
            likes.setdefault(row, []).append(like)
        wanted = {row: some[:_CHECKED_CANDIDATES] for row, some in likes.items()}
        needed = sorted(set(wanted).union(*wanted.values()))
        made = shingles_of((compared_text(rows[index]) for index in needed), frame).sets()
        sets = dict(zip(needed, made, strict=True))
        for row, some in wanted.items():
            shares = ((similarity(sets[row], sets[like]), like) for like in some)
            yield from (Match(row, like, share) for share, like in shares if share >= ALIKE)


def _first_of_each(matches: Iterable[Match]) -> list[Match]:
    """Return the first match of each row."""
    found: dict[int, Match] = {}
    for match in matches:
        found.setdefault(match.row, match)
    return list(found.values())


def _answers_agree(row: Row, like: Row) -> bool:
    if row.get("label") != like.get("label"):
        return False
    answers = (answer_text(row), answer_text(like))
    first, second = shingles_of(answers).sets()
    return answers[0] == answers[1] or similarity(first, second) >= _ANSWERS_ALIKE
