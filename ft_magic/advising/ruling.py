"""The table of rules put to use: the verdict, what it depends on, what would change it, what does not fit. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ft_magic.advising import rules
from ft_magic.advising.figures import Figures, Way
from ft_magic.advising.form import FAST, QUESTIONS, Form
from ft_magic.advising.rules import Rule

_WAYS = (("zero", "without examples"), ("few", "with examples"), ("nearest", "with similar examples"))


@dataclass(frozen=True)
class Ruling:
    """What the table says.

    Attributes:
        verdict: one of ``rules.VERDICTS``, or ``depends`` where unanswered questions decide.
        rule: the row that decided; None where it depends.
        conditions: where it depends: which answers lead to which verdict.
        changes: what would lead to another verdict.
        contradictions: where form and measurements do not fit together.
    """

    verdict: str
    rule: Rule | None
    conditions: tuple[str, ...]
    changes: tuple[str, ...]
    contradictions: tuple[str, ...]


def rule_on(found: Figures, form: Form) -> Ruling:
    """Put figures and form to the table; a question without an answer is tried with every answer it may have."""
    outcomes = [(tried, rules.first(found, tried)) for tried in _filled_in(form)]
    verdicts = {rule.verdict for _, rule in outcomes}
    depends = len(verdicts) > 1
    return Ruling(
        verdict=rules.DEPENDS if depends else outcomes[0][1].verdict,
        rule=None if depends else outcomes[0][1],
        conditions=tuple(_conditions(found, form)) if depends else (),
        changes=tuple(dict.fromkeys(_changes(found, form))),
        contradictions=tuple(_contradictions(found, form)),
    )


def _open(form: Form) -> list[str]:
    return [key for key in form.unanswered if QUESTIONS[key].decides]


def _filled_in(form: Form) -> Iterator[Form]:
    """Yield the form with every combination of answers to its unanswered questions."""
    keys = _open(form)
    for words in itertools.product(*(QUESTIONS[key].answers for key in keys)):
        yield form.with_answers(**dict(zip(keys, words, strict=True)))


def _verdict(found: Figures, form: Form) -> str:
    verdicts = {rules.first(found, tried).verdict for tried in _filled_in(form)}
    return verdicts.pop() if len(verdicts) == 1 else rules.DEPENDS


def _by_verdict(found: Figures, tried: Iterable[tuple[str, Form]]) -> dict[str, list[str]]:
    """Return verdict -> the words that lead to it, in order."""
    groups: dict[str, list[str]] = {}
    for word, form in tried:
        groups.setdefault(_verdict(found, form), []).append(word)
    return groups


def _conditions(found: Figures, form: Form, before: str = "") -> Iterator[str]:
    """Say which answers to the first unanswered question lead where, and go on with the next where that decides."""
    key = _open(form)[0]
    tried = {word: form.with_answers(**{key: word}) for word in QUESTIONS[key].answers}
    for verdict, words in _by_verdict(found, tried.items()).items():
        condition = f"{before}{key} is {_or(words)}"
        if verdict != rules.DEPENDS:
            yield f"if {condition}: {verdict}"
            continue
        for word in words:
            yield from _conditions(found, tried[word], f"{before}{key} is {word} and ")


def _changes(found: Figures, form: Form) -> Iterator[str]:
    """Say what would lead to another verdict: each of these goes through the table again."""
    now = _verdict(found, form)
    for key in (key for key, question in QUESTIONS.items() if getattr(form, key) and question.decides):
        others = [(word, form.with_answers(**{key: word})) for word in QUESTIONS[key].answers]
        for verdict, words in _by_verdict(found, others).items():
            if verdict != now:
                yield f"if {key} were {_or(words)}: {verdict}"
    for words_of_score, other in _other_scores(found):
        if (verdict := _verdict(other, form)) != now:
            yield f"if the score {words_of_score} end of its interval: {verdict}"
    for rows in (rules.FEW_ROWS, rules.STYLE_ROWS):
        verdict = _verdict(replace(found, distinct=rows), form)
        if found.distinct < rows and verdict != now:
            yield f"with {rows:,} different rows: {verdict}"


def _other_scores(found: Figures) -> Iterator[tuple[str, Figures]]:
    """Yield the figures with each score at both ends of its interval."""
    for name, said in _WAYS:
        way: Way | None = getattr(found, name)
        if way is None or way.score is None:
            continue
        for value, end in ((way.score.low, "lower"), (way.score.high, "upper")):
            other = replace(way, score=replace(way.score, mean=value))
            changed: dict[str, Any] = {name: other}
            yield f"{said} were {value:.0%}, the {end}", replace(found, **changed)


def _contradictions(found: Figures, form: Form) -> Iterator[str]:
    """Say where what the person says and what the rows show do not fit together."""
    outside, shape = found.outside, found.same_shape
    if form.needs in ("facts", "both") and outside is not None and outside <= rules.COPIED:
        yield (
            f"You say it needs {form.needs}, but {1 - outside:.0%} of the {found.facts} facts in the answers stand in "
            "their questions: the task copies them."
        )
    if form.needs in ("facts", "both") and found.kind == "label":
        yield f"You say it needs {form.needs}, but the answers are a small set of labels, learned like a form."
    if form.needs in ("format", "style") and (outside or 0.0) > rules.MOSTLY_OUTSIDE:
        yield (
            f"You say it needs {form.needs}, but {outside:.0%} of the {found.facts} facts in the answers do not stand "
            "in their questions: training on them trains facts."
        )
    if form.facts_change in FAST and outside is not None and outside <= rules.COPIED:
        yield (
            f"You say facts change {form.facts_change}; the answers take theirs from the questions, so it matters "
            "little."
        )
    if form.needs == "format" and shape is not None and shape < rules.ONE_SHAPE:
        yield f"You say it needs a format, but only {shape:.0%} of the answers share one."
    gain = found.nearest_gain
    if form.needs in ("format", "style") and gain and gain.score and gain.score.sure_sign > 0:
        yield (
            f"You say it needs {form.needs}, but similar examples score {100 * gain.score.mean:+.0f} points over "
            "random ones: they bring content too, which retrieval could bring."
        )


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
