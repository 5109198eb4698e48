"""Repeats: rows that are exactly equal, and rows that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.row import Row, answer_text, canonical, prompt_text


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for a text; texts of a million rows need not be kept twice."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def repeated(rows: Sequence[Row]) -> list[int]:
    """Return the indices of rows exactly equal to an earlier one."""
    seen: set[bytes] = set()
    again = []
    for index, row in enumerate(rows):
        key = digest(canonical(row))
        if key in seen:
            again.append(index)
        seen.add(key)
    return again


def contradicted(rows: Sequence[Row]) -> list[int]:
    """Return the indices of rows that say the opposite of another one.

    Of judged answers: the same answer marked good and, elsewhere, bad. Of pairs: the same two answers the other
    way round.
    """
    if rows and "label" in rows[0]:
        keys = [digest(canonical({"prompt": row["prompt"], "completion": row["completion"]})) for row in rows]
        sides = [bool(row["label"]) for row in rows]
    elif rows and "chosen" in rows[0]:
        both = [(answer_text(row, "chosen"), answer_text(row, "rejected")) for row in rows]
        keys = [digest("\0".join((prompt_text(r), *sorted(b)))) for r, b in zip(rows, both, strict=True)]
        sides = [chosen < rejected for chosen, rejected in both]
        sides = [side or chosen == rejected for side, (chosen, rejected) in zip(sides, both, strict=True)]
    else:
        return []
    verdicts: dict[bytes, bool | None] = {}
    for key, side in zip(keys, sides, strict=True):
        verdicts[key] = side if verdicts.get(key, side) is side else None
    return [index for index, key in enumerate(keys) if verdicts[key] is None]


def repeats_finding(again: Sequence[int]) -> Finding | None:
    """Return the finding about exact duplicates, None where there are none."""
    message = "{n} exactly equal to an earlier one: counted twice in training."
    return finding_of("duplicates", "warning", again, message, "data.fix('duplicates')")


def different_answers(rows: Sequence[Row]) -> Finding | None:
    """Return the finding about prompts that are answered in several ways."""
    if not rows or "text" in rows[0] or ("label" in rows[0] and "completion" in rows[0]):
        return None  # good and bad answers to one prompt are the point of judged answers
    prompts = [digest(prompt_text(row)) for row in rows]
    answers: dict[bytes, bytes | None] = {}
    for prompt, row in zip(prompts, rows, strict=True):
        answer = digest(answer_text(row))
        answers[prompt] = answer if answers.get(prompt, answer) == answer else None
    several = [index for index, prompt in enumerate(prompts) if answers[prompt] is None]
    level = "info" if "chosen" in rows[0] else "warning"
    message = "{n} whose prompt is answered differently in another row."
    return finding_of(
        "different_answers", level, several, message, "keep the better answer where only one is right"
    )
