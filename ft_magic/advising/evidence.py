"""The figures in words: one line a figure, with what it says. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ft_magic.advising import rules
from ft_magic.advising.estimates import Estimate
from ft_magic.advising.figures import Figures, Gain, Way
from ft_magic.advising.form import QUESTIONS, Form
from ft_magic.advising.metrics import METRICS

_KINDS = {
    "json": "JSON", "label": "labels", "number": "numbers", "short": "a few words", "text": "free text",
    "none": "none",
}  # fmt: skip
_WAYS = (("zero", "question alone"), ("few", "random examples"), ("nearest", "similar examples"))


@dataclass(frozen=True)
class Evidence:
    """One figure.

    Attributes:
        what: its name.
        value: as shown.
        says: what it means here.
        tabled: whether the table of the ways of asking shows it as well.
    """

    what: str
    value: str
    says: str = ""
    tabled: bool = False


def evidence(found: Figures, form: Form) -> tuple[Evidence, ...]:
    """Return everything an advice rests on, the form's answers last."""
    return (*_of_rows(found), *_of_ways(found), *_of_form(found, form))


def _of_rows(found: Figures) -> Iterator[Evidence]:
    enough = "enough to learn a form from" if found.distinct >= rules.FEW_ROWS else "few"
    yield Evidence("rows with an answer", f"{found.rows:,}", f"{found.distinct:,} different: {enough}")
    if found.kind == "none":
        return
    length = f"half of them up to {found.words:.0f} words, long ones {found.spread:.1f}x short ones"
    yield Evidence("answers", _KINDS[found.kind], length)
    if found.same_shape is not None:
        even = "one form" if found.same_shape >= rules.ONE_SHAPE else "mixed forms"
        yield Evidence("answers of the commonest form", f"{found.same_shape:.0%}", even)
    if found.asked is not None and found.known is not None and found.unknown is not None:
        seen = f"{found.facts:,} numbers, codes and names"
        yield Evidence("facts standing in the question", f"{found.asked:.0%}", f"of {seen}")
        yield Evidence(
            "facts in other rows' answers alone", f"{found.known:.0%}", "could be looked up in rows"
        )
        yield Evidence("facts standing nowhere else", f"{found.unknown:.0%}", "no row teaches them")


def _of_ways(found: Figures) -> Iterator[Evidence]:
    if not found.examples:
        return
    title = METRICS[found.metric].title
    for name, said in _WAYS:
        way: Way | None = getattr(found, name)
        if way is not None and way.score is not None:
            yield Evidence(
                f"{title}, {said}", share(way.score), f"{found.examples} held-out rows", tabled=True
            )
    for gain, said in (
        (found.few_gain, "random examples over none"),
        (found.nearest_gain, "similar examples over random ones"),
    ):
        yield from _of_gain(gain, said)


def _of_gain(gain: Gain | None, said: str) -> Iterator[Evidence]:
    if gain is None:
        return
    if gain.score is not None:
        sure = {1: "better", -1: "worse", 0: "no sure difference"}[gain.score.sure_sign]
        yield Evidence(f"score, {said}", points(gain.score), sure)
    if gain.loss is not None:
        sure = {1: "less likely", -1: "likelier", 0: "no sure difference"}[gain.loss.sure_sign]
        yield Evidence(f"loss, {said}", nats(gain.loss, sign="+"), f"expected answers: {sure}")


def _of_form(found: Figures, form: Form) -> Iterator[Evidence]:
    for key, question in QUESTIONS.items():
        word = getattr(form, key)
        said = "nobody has answered" if word is None else "you say"
        yield Evidence(question.asks, word or "unanswered", said)
    yield Evidence("good enough from", f"{form.target:.0%}", "target; a choice, set your own")
    few, zero = found.few, found.zero
    if few and zero and few.prompt_tokens and zero.prompt_tokens:
        more = few.prompt_tokens - zero.prompt_tokens
        paid = {"cloud": "paid for in every request", "own": "read for every request"}.get(
            form.runtime or "", ""
        )
        yield Evidence(
            "what examples cost", f"{more:+.0f} tokens", paid or "a prompt; training would save them"
        )


def share(found: Estimate) -> str:
    """Return a score with its interval: ``62% (41 to 79)``."""
    return f"{found.mean:.0%} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def points(found: Estimate) -> str:
    """Return a difference of scores with its interval: ``+12 points (-3 to +27)``."""
    return f"{100 * found.mean:+.0f} points ({100 * found.low:+.0f} to {100 * found.high:+.0f})"


def nats(found: Estimate, sign: str = "") -> str:
    """Return a loss with its interval: ``1.21 nats (1.02 to 1.43)``."""
    return f"{found.mean:{sign}.2f} nats ({found.low:{sign}.2f} to {found.high:{sign}.2f})"
