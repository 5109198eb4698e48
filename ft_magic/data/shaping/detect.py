"""Which shape has this data, and which column plays which role?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ft_magic.axes import find_signal
from ft_magic.data.labels import as_label, judges
from ft_magic.data.row import shortened
from ft_magic.data.shapes import ANSWER_COLUMNS, LABELS, PLAIN_PROMPTS, ROLES, SHAPES, Shape
from ft_magic.data.turns import as_list, has_answer, kind_of
from ft_magic.errors import DataError, nearest

_SAMPLE_ROWS = 200  # columns and kinds of values are read from this many first rows


@dataclass(frozen=True)
class Detected:
    """The shape found.

    Attributes:
        shape: its row of the table.
        columns: role -> source column.
        unused: other columns of the first rows.
        notes: what to say about the choice.
    """

    shape: Shape
    columns: Mapping[str, str]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()


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
    samples = _samples(records)
    pinned = _checked_columns(columns or {}, samples)
    labels = _label_columns(records, samples, signal)
    unanswered: Detected | None = None
    for shape in _candidates(signal):
        found = _assign(shape, samples, pinned, labels)
        if found is None or (shape.signal == "prompt" and not _asks(found, records, samples, signal, pinned)):
            continue
        unused = tuple(name for name in samples if name not in found.values())
        detected = Detected(shape, found, unused, _notes(shape, unused, records, signal))
        if shape.signal not in ("demo", "label") or "messages" not in found or _answered(records, found):
            return detected
        unanswered = unanswered or detected  # prompts alone, or pairs: a later shape says so
    if unanswered is not None:
        return unanswered
    raise _unknown_shape(samples, source, signal, pinned)


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
    yield from (shape for shape in converting if shape.signal != "demo")
    yield from (*own, *(shape for shape in converting if shape.signal == "demo"))


def _label_columns(records: list[Any], samples: Mapping[str, Any], signal: str | None) -> frozenset[str]:
    """Return the columns that judge answers, by name and values; by name alone where labels are asked for."""
    named = [name for name in samples if name.lower().strip() in LABELS]
    judging = frozenset(name for name in named if judges(_column(records, name)))
    return judging or (frozenset(named) if signal == "label" else judging)


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


def _answered(records: list[Any], found: Mapping[str, str], last: bool = False) -> bool:
    """Return whether the assistant speaks in any conversation; with ``last``, as the last one."""
    cells = _column(records, found["messages"])
    return any(has_answer((as_list(cell) or [])[-1:] if last else cell) for cell in cells)


def _column(records: list[Any], name: str) -> Iterator[Any]:
    return (record.get(name) for record in records if isinstance(record, Mapping))


def _notes(shape: Shape, unused: tuple[str, ...], records: list[Any], signal: str | None) -> tuple[str, ...]:
    """Say where a demonstration was asked for although a column marks answers as bad."""
    if signal != "demo" or shape.signal != "demo":
        return ()
    names = {name.lower(): name for name in unused}
    for name in (names[label] for label in LABELS if label in names):
        values = list(_column(records, name))
        bad = sum(as_label(value) is False for value in values)
        if bad and judges(values):
            note = (
                f"'{name}' marks {bad} of {len(values)} answers as bad; they are imitated too, as signal='demo' "
                "asks (leave it out and write .to('demo') to keep the good ones alone)"
            )
            return (note,)
    return ()


def _samples(records: Iterable[Any]) -> dict[str, Any]:
    """Return each column with its first value that is not missing, in order of appearance."""
    samples: dict[str, Any] = {}
    for index, record in enumerate(records):
        if index >= _SAMPLE_ROWS:
            break
        for key, value in record.items() if isinstance(record, Mapping) else ():
            if kind_of(samples.get(str(key))) == "none":
                samples[str(key)] = value
    return samples


def _checked_columns(columns: Mapping[str, str], samples: Mapping[str, Any]) -> dict[str, str]:
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
    return dict(columns)


def _assign(
    shape: Shape, samples: Mapping[str, Any], pinned: Mapping[str, str], labels: frozenset[str]
) -> dict[str, str] | None:
    """Return role -> column where every required role is played, else None."""
    if not set(pinned) <= set(shape.roles):
        return None
    found = dict(pinned)
    # Someone who names columns means these; optional ones are guessed only where nothing was named.
    guessed = dict(shape.required) if pinned else {**shape.required, **shape.optional}
    by_lower = {name.lower().strip(): name for name in reversed(list(samples))}
    for role, names in guessed.items():
        if role in found:
            continue
        free = (by_lower[name] for name in names if name in by_lower and by_lower[name] not in found.values())
        if shape.kinds.get(role) == "label":
            free = (name for name in free if name in labels)
        column = next((name for name in free if _holds(shape, role, samples[name])), None)
        if column is not None:
            found[role] = column
        elif role in shape.required:
            return None
    return found if all(_holds(shape, role, samples[column]) for role, column in found.items()) else None


def _holds(shape: Shape, role: str, value: Any) -> bool:
    kind = shape.kinds.get(role)
    # Chat columns are told from plain text by their values; a label column by all of them, see ``_assign``.
    return kind in (None, "label") or kind_of(value) == kind


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
