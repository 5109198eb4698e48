"""Which shape has this data, and which column plays which role?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ft_magic.axes import find_signal
from ft_magic.data.labels import as_label, is_signed, judges
from ft_magic.data.row import shortened
from ft_magic.data.shaping.evidence import Evidence, column_of, evidence_of
from ft_magic.data.shaping.shapes import (
    ANSWER_COLUMNS,
    LABELS,
    PLAIN_PROMPTS,
    ROLES,
    SHAPES,
    TWO_TEXTS,
    Shape,
)
from ft_magic.data.turns import as_list, has_answer
from ft_magic.errors import DataError, nearest

# What a shape assumes, beyond its columns.
_ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "conversation trees": "one conversation a tree: the best ranked answer each time (pairs: signal='pair')",
        "conversation trees, ranked replies": "a pair a message with ranked answers: the best against the worst",
        "ranked answers": "a pair a row: the best answer against the worst",
        "segments": (
            "segments that are not trained are taken as the user's turns, trained ones as the assistant's; "
            "markup of a template in them stays"
        ),
    }
)


@dataclass(frozen=True)
class Detected:
    """The shape found.

    Attributes:
        shape: its row of the table.
        columns: role -> source column.
        unused: other columns of the first rows.
        notes: what to say about the choice.
        transcripts: columns whose texts are read as conversations.
        signed: whether labels are +1 and -1.
    """

    shape: Shape
    columns: Mapping[str, str]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()
    transcripts: frozenset[str] = frozenset()
    signed: bool = False


def detect(
    records: list[Any], source: str, signal: str | None = None, columns: Mapping[str, str] | None = None
) -> Detected:
    """Find the shape of records; what the user named is taken, the rest is guessed from names and values.

    With a signal that no shape of the data carries, a shape is taken whose rows convert to it.

    Raises:
        DataError: no shape fits, or a named column does not exist.
    """
    if signal is not None:
        find_signal(signal)
    pinned = dict(columns or {})
    listed = [role for role in ("answers", "scores", "ranks") if role in pinned]
    evidence = evidence_of(records, signal, listed)
    _check_columns(pinned, evidence.samples)
    unanswered: Detected | None = None
    for shape in _candidates(signal):
        found = _assign(shape, evidence, pinned)
        if found is None or (
            shape.signal == "prompt" and not _asks(found, records, evidence.samples, signal, pinned)
        ):
            continue
        detected = _detected(shape, found, evidence, records, signal)
        if shape.signal not in ("demo", "label") or "messages" not in found or _answered(records, detected):
            return detected
        unanswered = unanswered or detected  # prompts alone, or pairs: a later shape says so
    if unanswered is not None:
        return unanswered
    if evidence.guessed and not pinned and signal in (None, "demo"):
        first, second = evidence.guessed
        note = (
            f"a guess: of two columns of text '{first}' is taken for the prompt and '{second}' for the answer "
            f"(otherwise: columns={{'prompt': '{second}', 'completion': '{first}'}})"
        )
        detected = _detected(TWO_TEXTS, {"prompt": first, "completion": second}, evidence, records, signal)
        return replace(detected, notes=(note, *detected.notes))
    raise _unknown_shape(evidence.samples, source, signal, pinned)


def _detected(
    shape: Shape, found: Mapping[str, str], evidence: Evidence, records: list[Any], signal: str | None
) -> Detected:
    unused = tuple(name for name in evidence.samples if name not in found.values())
    # Text that is asked for as text stays text; of prompts and answers a transcript is a conversation.
    spoken = frozenset() if shape.signal == "text" else evidence.transcripts & set(found.values())
    signed = "label" in found and is_signed(column_of(records, found["label"]))
    notes = list(_notes(shape, unused, records, signal))
    if spoken:
        named = ", ".join(f"'{name}'" for name in sorted(spoken))
        plain = " (text as it stands: signal='text')" if "messages" in found else ""
        notes.append(f"{named}: 'Human:' and 'Assistant:' begin turns{plain}")
    if signed:
        notes.append(f"'{found['label']}': +1 is good, -1 is bad")
    if shape.name in _ABOUT:
        notes.append(_ABOUT[shape.name])
    return Detected(shape, found, unused, tuple(notes), spoken, signed)


def _candidates(signal: str | None) -> Iterator[Shape]:
    """Yield the shapes to try: all, or those of the signal asked and those that convert to it."""
    if signal is None:
        yield from SHAPES
        return
    converting = [shape for shape in SHAPES if signal in find_signal(shape.signal).converts_to]
    own = [shape for shape in SHAPES if shape.signal == signal]
    if signal != "prompt":
        yield from (*own, *converting)
        return
    # Every pair and every judged answer could be read as a prompt with odd columns, so these go first; of
    # demonstrations the shape for prompts keeps more: columns beside prompt and answer.
    yield from (shape for shape in converting if shape.signal != "demo" and "tree" not in shape.required)
    yield from (*own, *(shape for shape in converting if shape.signal == "demo"))


def _asks(
    found: Mapping[str, str],
    records: list[Any],
    samples: Mapping[str, Any],
    signal: str | None,
    pinned: Mapping[str, str],
) -> bool:
    """Return whether what looks like prompts holds nothing that looks like answers."""
    if signal is None:
        names = {name.lower().strip() for name in samples}
        plain = bool(pinned) or "messages" in found or found["prompt"].lower().strip() in PLAIN_PROMPTS
        if not plain or "answer" in found or (names & ANSWER_COLUMNS and not pinned):
            return False
    # A conversation that ends with an answer is a demonstration; to("prompt") takes the answer off.
    return "messages" not in found or not _answered(records, found, last=signal == "prompt")


def _answered(records: list[Any], found: Detected | Mapping[str, str], last: bool = False) -> bool:
    """Return whether the assistant speaks in any conversation; with ``last``, as the last one."""
    columns = found.columns if isinstance(found, Detected) else found
    if isinstance(found, Detected) and columns["messages"] in found.transcripts:
        return True
    cells = column_of(records, columns["messages"])
    return any(has_answer((as_list(cell) or [])[-1:] if last else cell) for cell in cells)


def _notes(shape: Shape, unused: tuple[str, ...], records: list[Any], signal: str | None) -> tuple[str, ...]:
    """Say where a demonstration was asked for although a column marks answers as bad."""
    if signal != "demo" or shape.signal != "demo":
        return ()
    names = {name.lower(): name for name in unused}
    for name in (names[label] for label in LABELS if label in names):
        values = list(column_of(records, name))
        bad = sum(as_label(value) is False for value in values)
        if bad and judges(values):
            note = (
                f"'{name}' marks {bad} of {len(values)} answers as bad; they are imitated too, as signal='demo' "
                "asks (leave it out and write .to('demo') to keep the good ones alone)"
            )
            return (note,)
    return ()


def _check_columns(columns: Mapping[str, str], samples: Mapping[str, Any]) -> None:
    for role, column in columns.items():
        if role not in ROLES:
            raise DataError(
                f"columns names the role '{role}', which does not exist.{nearest(role, ROLES)}",
                f"Roles are: {', '.join(ROLES)}.",
            )
        if column not in samples:
            raise DataError(
                f"columns maps {role} to '{column}', but there is no such column.{nearest(column, samples)}",
                f"The columns are: {', '.join(samples)}.",
            )


def _assign(shape: Shape, evidence: Evidence, pinned: Mapping[str, str]) -> dict[str, str] | None:
    """Return role -> column where every required role is played, else None."""
    if not set(pinned) <= set(shape.roles):
        return None
    found = dict(pinned)
    # Someone who names columns means these; optional ones are guessed only where nothing was named.
    guessed = dict(shape.required) if pinned else {**shape.required, **shape.optional}
    by_lower = {name.lower().strip(): name for name in reversed(list(evidence.samples))}
    for role, names in guessed.items():
        if role in found:
            continue
        free = (by_lower[name] for name in names if name in by_lower and by_lower[name] not in found.values())
        column = next((name for name in free if evidence.holds(shape.kinds.get(role), name)), None)
        if column is not None:
            found[role] = column
        elif role in shape.required:
            return None
    # What the user named as a label is one, whatever it holds: the reader says where it is none.
    holds = (
        evidence.holds(shape.kinds.get(role), column)
        for role, column in found.items()
        if not (role in pinned and shape.kinds.get(role) == "label")
    )
    return found if all(holds) else None


def _unknown_shape(
    samples: Mapping[str, Any], source: str, signal: str | None, pinned: Mapping[str, str]
) -> DataError:
    seen = [f"  {name}: {shortened(value)}" for name, value in samples.items()] or ["  (no columns)"]
    wanted = f" for signal '{signal}'" if signal else ""
    given = f" with {dict(pinned)}" if pinned else ""
    names = [*samples, "...", "...", "..."]
    demo = f'"prompt": "{names[0]}", "completion": "{names[1]}"'
    ways = {
        "label": f'columns={{{demo}, "label": "{names[2]}"}}',
        "prompt": f'columns={{"prompt": "{names[0]}"}}',
        "text": f'columns={{"text": "{names[0]}"}}',
        "pair": f'columns={{"prompt": "{names[0]}", "chosen": "{names[1]}", "rejected": "{names[2]}"}}',
    }
    return DataError(
        f"{source}: these columns fit no known shape{wanted}{given}.",
        "\n".join(
            [
                "Columns, with a first value:",
                *seen,
                f"Say which is which, for example {ways.get(signal or '', f'columns={{{demo}}}')}.",
            ]
        ),
    )
