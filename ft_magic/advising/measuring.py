"""From rows and a model to figures: what is counted always, what is tried where a model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from ft_magic.advising import answers, metrics, shots, trials
from ft_magic.advising.answers import Answers
from ft_magic.advising.estimates import bootstrap, difference, wilson
from ft_magic.advising.figures import Figures, Gain, Way
from ft_magic.advising.metrics import Known, Metric
from ft_magic.advising.rules import COPIED
from ft_magic.advising.shots import Case
from ft_magic.advising.trials import FEW, NEAREST, ZERO, Asked
from ft_magic.data import Data
from ft_magic.data.facts import origin
from ft_magic.data.row import canonical
from ft_magic.errors import DataError
from ft_magic.progress import Progress

_LARGEST_SHARE = 0.5  # of the rows, at most this many are held out: the others are the examples


@dataclass(frozen=True)
class Sample:
    """One held-out question with its answers.

    Attributes:
        question: its last turn.
        expected: the row's answer.
        zero: the model's answer to the question alone.
        few: its answer after examples.
        nearest: its answer after similar examples.
    """

    question: str
    expected: str
    zero: str
    few: str
    nearest: str


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        figures: for the rules.
        pool: rows that examples are taken from.
        metric_why: why this metric decides.
        samples: the questions tried, with answers.
        notes: what was left out, and why nothing was measured where nothing was.
    """

    figures: Figures
    pool: tuple[Case, ...]
    metric_why: str = ""
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """How to measure.

    Attributes:
        metric: the user's choice, or None.
        shots: examples in a prompt.
        examples: held-out rows tried.
        seed: decides which rows and which examples.
        goal: the task in words.
        measure: whether the model is asked at all.
    """

    metric: str | None
    shots: int
    examples: int
    seed: int
    goal: str
    measure: bool


def measure(model: Any, data: Data, heldout: Data | None, wanted: Wanted, progress: Progress) -> Measured:
    """Count what the rows show, and try the model on held-out ones.

    Raises:
        SpecError: there is no such metric, or the model cannot be understood.
        ModelError: there is no such model.
        RunError: the model could not be asked.
    """
    cases, notes = _cases(data)
    found = _counted(data, cases)
    if not cases:
        said = f"{data.name} holds no answers, so there is nothing to compare a model's answers with."
        return Measured(found, (), notes=(*notes, f"Nothing was measured: {said}"))
    described = answers.describe([case.answer for case in cases])
    own = found.outside is not None and found.outside > COPIED
    metric, why = metrics.chosen(described, wanted.metric, own_facts=own)
    found = replace(found, metric=metric.name, absolute=metric.absolute)
    if not wanted.measure:
        return Measured(found, tuple(cases), why, notes=(*notes, "Nothing was measured: measure=False."))
    try:
        pool, held, said = _sides(data, heldout, wanted)
    except DataError as error:
        return Measured(found, tuple(cases), why, notes=(*notes, f"Nothing was measured: {error.problem}"))
    subject = trials.subject_of(model, progress)
    fitting, asked = trials.prompts(
        subject, held, pool, count=wanted.shots, seed=wanted.seed, goal=wanted.goal
    )
    notes = [*notes, said, *_cut_notes(subject, held, fitting, asked, wanted)]
    if not fitting:
        return Measured(found, tuple(pool), why, notes=(*notes, "Nothing was measured: no question fits."))
    done = trials.ask(subject, fitting, asked, progress)
    return Measured(
        _with_ways(found, done, fitting, described, metric), tuple(pool), why, _samples(fitting, done), tuple(notes)
    )  # fmt: skip


def _cases(data: Data) -> tuple[list[Case], list[str]]:
    found = [shots.case_of(row) for row in data]
    cases = [case for case in found if case is not None]
    left = len(found) - len(cases)
    lacking = (
        f"{left} of {len(found)} rows left out: no answer as text (raw text, prompts alone, calls of tools)."
    )
    return cases, [lacking] if left else []


def _counted(data: Data, cases: Sequence[Case]) -> Figures:
    """Count what the rows show without a model."""
    distinct = len({canonical(row) for row in data})
    if not cases:
        return Figures(rows=len(data), distinct=distinct, kind="none")
    texts = [case.answer for case in cases]
    described = answers.describe(texts)
    # Labels and numbers to be worked out are no facts that one looks up.
    of = None if described.kind in ("label", "number") else origin([case.question for case in cases], texts)
    return Figures(
        rows=len(cases),
        distinct=len({(case.question, case.answer) for case in cases}),
        kind=described.kind,
        same_shape=described.same_shape,
        words=described.words,
        spread=described.spread,
        facts=of.count if of else 0,
        asked=of.asked if of else None,
        known=of.known if of else None,
        unknown=of.unknown if of else None,
    )


def _sides(data: Data, heldout: Data | None, wanted: Wanted) -> tuple[list[Case], list[Case], str]:
    """Return rows for examples, held-out rows to try, and a sentence about both.

    Raises:
        DataError: nothing can be held out.
    """
    if heldout is None:
        share = min(_LARGEST_SHARE, max(0.1, wanted.examples / len(data)))
        train, test, together = _split(data, share, wanted.seed)
        how = f"held out of {data.name} (seed {wanted.seed}, {together} together)"
    else:
        train, test, how = data, heldout, f"of {heldout.name}"
    pool, held = _cases(train)[0], _cases(test)[0]
    asked = {case.question for case in held}
    given_away = sum(
        case.question in asked for case in pool
    )  # as an example, such a row would tell the answer
    if given_away:
        pool = [case for case in pool if case.question not in asked]
        how += f", {given_away} rows with the same questions are no examples"
    if not held or not pool:
        raise DataError("there is no row with an answer on one side of the split.")
    tried = shots.random_shots(held, wanted.examples, wanted.seed, -1)
    said = f"Tried on {len(tried)} rows {how}; examples come from {len(pool)} other rows."
    return pool, tried, said


def _split(data: Data, share: float, seed: int) -> tuple[Data, Data, str]:
    """Return (train, held-out, what stays on one side): a near-duplicate as an example would give the answer away.

    Raises:
        DataError: nothing can be held out.
    """
    try:
        return (*data.split(share, seed=seed, near=True), "equal questions and near-duplicates")
    except DataError:  # the package that finds them is missing, or all rows resemble each other
        return (*data.split(share, seed=seed), "equal questions")


def _cut_notes(
    subject: trials.Subject,
    held: Sequence[Case],
    fitting: Sequence[Case],
    asked: Mapping[str, Asked],
    wanted: Wanted,
) -> list[str]:
    notes = []
    if len(fitting) < len(held):
        notes.append(
            f"{len(held) - len(fitting)} questions are longer than the {subject.context_tokens} tokens {subject.name} "
            "reads and were not tried."
        )
    for name, said in ((FEW, "random"), (NEAREST, "similar")):
        short = sum(used < wanted.shots for used in asked[name].shots)
        if short:
            notes.append(
                f"{short} prompts hold fewer than {wanted.shots} {said} examples: no more fit or resemble the question."
            )
    if subject.tokenizer is None:
        notes.append("An endpoint gives no likelihood of a given answer, so there is no loss.")
    elif subject.tokenizer.chat is None:
        notes.append(f"{subject.name} has no chat template: the turns stand one below the other as text.")
    return notes


def _with_ways(
    found: Figures, done: Mapping[str, Asked], cases: Sequence[Case], described: Answers, metric: Metric
) -> Figures:
    shown = metrics.shown(described, metric)
    points = {
        name: {
            one.name: [
                one.function(text, case.answer, Known(described.labels, case.question))
                for text, case in zip(way.texts, cases, strict=True)
            ]
            for one in shown
        }
        for name, way in done.items()
    }
    ways = {name: _way(way, points[name]) for name, way in done.items()}

    def gain(after: str, before: str) -> Gain:
        score = difference(points[after][metric.name], points[before][metric.name])
        both = done[after].losses and done[before].losses
        return Gain(score, difference(done[after].losses, done[before].losses) if both else None)

    return replace(
        found,
        examples=len(cases),
        zero=ways[ZERO],
        few=ways[FEW],
        nearest=ways[NEAREST],
        few_gain=gain(FEW, ZERO),
        nearest_gain=gain(NEAREST, FEW),
    )


def _way(way: Asked, points: Mapping[str, Sequence[float]]) -> Way:
    scores = [(name, wilson(values)) for name, values in points.items()]
    return Way(
        shots=way.mean_shots,
        prompt_tokens=fmean(way.tokens) if way.tokens else None,
        score=scores[0][1],
        loss=bootstrap(way.losses) if way.losses else None,
        scores=tuple(scores[1:]),
    )


def _samples(cases: Sequence[Case], done: Mapping[str, Asked]) -> tuple[Sample, ...]:
    return tuple(
        Sample(str(case.turns[-1]["content"]), case.answer, *(done[name].texts[i] for name in (ZERO, FEW, NEAREST)))
        for i, case in enumerate(cases)
    )  # fmt: skip
