"""Scores of an answer against the expected one, 0 to 1: one row each. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ft_magic.advising.answers import Answers, plain, strict_json
from ft_magic.data.facts import facts_of, words_of
from ft_magic.errors import SpecError, nearest

_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Known:
    """What is known of a row besides its answers.

    Attributes:
        labels: all labels of the rows, in small letters.
        question: what was asked.
    """

    labels: frozenset[str] = frozenset()
    question: str = ""


@dataclass(frozen=True)
class Metric:
    """One way to score.

    Attributes:
        name: what users write.
        title: what a score of 1 means.
        kinds: kinds of answers it is shown for; the first metric of a kind decides.
        why: why it fits these kinds.
        function: (answer, expected, known) -> score.
        absolute: whether a score says by itself how good answers are.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    why: str
    function: Callable[[str, str, Known], float]
    absolute: bool = True


def _fields(answer: str, expected: str, _known: Known) -> float:
    found, wanted = strict_json(answer), strict_json(expected)
    if found is None or not isinstance(wanted, dict) or not isinstance(found, dict):
        return float(found is not None and found == wanted)
    # A field too many counts like a field wrong: whoever reads the JSON expects these keys.
    keys = wanted.keys() | found.keys()
    right = sum(key in found and key in wanted and _same(found[key], wanted[key]) for key in keys)
    return right / len(keys) if keys else 1.0


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other  # true is not 1


def _keys(answer: str, expected: str, _known: Known) -> float:
    found, wanted = strict_json(answer), strict_json(expected)
    if isinstance(wanted, dict):
        return float(isinstance(found, dict) and found.keys() == wanted.keys())
    return float(type(found) is type(wanted))


def _label(answer: str, expected: str, known: Known) -> float:
    said = f" {' '.join(words_of(answer))} "
    named = {label for label in known.labels | {plain(expected)} if f" {' '.join(words_of(label))} " in said}
    return float(named == {plain(expected)})


def _number(answer: str, expected: str, _known: Known) -> float:
    found, wanted = _NUMBER.findall(answer), _NUMBER.findall(expected)
    return float(bool(found) and bool(wanted) and _value(found[-1]) == _value(wanted[-1]))


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _exact(answer: str, expected: str, _known: Known) -> float:
    return float(plain(answer) == plain(expected))


def _f1(answer: str, expected: str, _known: Known) -> float:
    found, wanted = Counter(words_of(answer)), Counter(words_of(expected))
    shared = (found & wanted).total()
    return 2 * shared / (found.total() + wanted.total()) if shared else 0.0


def _facts(answer: str, expected: str, known: Known) -> float:
    wanted = facts_of(expected) - set(words_of(known.question))  # those of the question are only repeated
    if not wanted:  # a row without facts among rows with them
        return _f1(answer, expected, known)
    return len(wanted & set(words_of(answer))) / len(wanted)


_ROWS = (
    Metric("fields", "JSON fields right", ("json",), "the answers are JSON", _fields),
    Metric("json", "JSON with exactly these keys", ("json",), "whether a program can read it", _keys),
    Metric("label", "right label, no other", ("label",), "the answers come from a small set", _label),
    Metric("number", "last number right", ("number",), "the answers are numbers (as GSM8K is scored)", _number),
    Metric("exact", "same text", ("short", "label", "number", "json"), "the answers are short", _exact),
    Metric(
        "f1", "words shared (F1)", ("text", "short"), "the answers are free text: words shared, as in SQuAD", _f1,
        absolute=False,
    ),
    Metric(
        "facts", "facts right", ("text",),
        "the answers hold facts of their own, and shared words would count wrong ones as nearly right", _facts,
    ),
)  # fmt: skip
METRICS: Mapping[str, Metric] = MappingProxyType({row.name: row for row in _ROWS})


def chosen(answers: Answers, name: str | None, *, own_facts: bool = False) -> tuple[Metric, str]:
    """Return the metric that decides and why it does.

    Args:
        answers: of the rows.
        own_facts: whether they hold facts that their questions do not.
        name: the user's own choice, or None.

    Raises:
        SpecError: there is no such metric.
    """
    if name is None:
        free = answers.kind == "text" and own_facts
        metric = METRICS["facts"] if free else next(row for row in _ROWS if answers.kind in row.kinds)
        return metric, metric.why
    if name not in METRICS:
        raise SpecError(
            f"advise: metric '{name}' does not exist.{nearest(name, METRICS)}",
            f"Choose one of: {', '.join(METRICS)}; or leave it out.",
        )
    return METRICS[name], "you chose it"


def shown(answers: Answers, decisive: Metric) -> tuple[Metric, ...]:
    """Return the metrics to show for these answers, the one that decides first."""
    return (decisive, *(row for row in _ROWS if answers.kind in row.kinds and row != decisive))
