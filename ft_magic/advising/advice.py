"""The result: what to do, on what evidence, what would change it, and the next cell. It shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_magic.advising.evidence import Evidence, evidence
from ft_magic.advising.figures import Figures
from ft_magic.advising.form import QUESTIONS, Form
from ft_magic.advising.measuring import Measured, Sample
from ft_magic.advising.next_cells import Names, next_cell
from ft_magic.advising.ruling import rule_on
from ft_magic.advising.shots import Case, Chat, index_of, nearest_shots, random_shots, with_shots
from ft_magic.ui import widget
from ft_magic.ui.show import (
    Shown,
)

_CONTEXT = "Answer from these passages alone; say so where they do not hold the answer."


@dataclass(frozen=True)
class Told:
    """What an advice is about, in the user's words.

    Attributes:
        model: as the user wrote it.
        data: name of the rows.
        data_word: as a cell writes the rows: ``$ds``, or a path.
        signal: of the rows.
        shots: examples in a prompt.
        took_s: seconds the measuring took.
        variable: Python expression of the advice, for the next cell.
    """

    model: str
    data: str
    data_word: str
    signal: str
    shots: int
    took_s: float = 0.0
    variable: str = "advice"


@dataclass(frozen=True, repr=False)
class Advice:
    """Prompting, retrieval or fine-tuning.

    Attributes:
        verdict: ``prompting``, ``retrieval``, ``fine-tune``, ``fine-tune + retrieval``, ``collect more data first``,
            ``do not fine-tune``; or ``depends``, where questions that nobody has answered decide.
        why: in one sentence.
        rule: name of the rule that decided.
        source: who says so.
        evidence: figures in words.
        conditions: where it depends: which answers lead to which verdict.
        changes: what would lead to another verdict.
        contradictions: where form and measurements do not fit together.
        next_cell: the cell to run next.
        figures: numbers the rules read.
        form: what was answered.
        measured: everything found, with samples.
        told: names.
    """

    verdict: str
    why: str
    rule: str
    source: str
    evidence: tuple[Evidence, ...]
    conditions: tuple[str, ...]
    changes: tuple[str, ...]
    contradictions: tuple[str, ...]
    next_cell: str
    figures: Figures
    form: Form
    measured: Measured
    told: Told

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Held-out questions with the answers of the three ways."""
        return self.measured.samples

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, and why nothing was measured where nothing was."""
        return self.measured.notes

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Questions of the form that nobody has answered."""
        return self.form.unanswered

    def answer(self, **answers: Any) -> Advice:
        """Return the advice for other answers to the form; nothing is measured again.

        Args:
            answers: ``needs``, ``facts_change``, ``runtime``, ``target``; None takes an answer back. A new ``goal``
                needs new measurements: call ``ft.advise`` again.

        Raises:
            SpecError: no such question, or no such answer to it.
        """
        return advice_on(self.measured, self.form.with_answers(**answers), self.told)

    def prompt(
        self,
        question: str,
        *,
        nearest: bool = False,
        shots: int | None = None,
        context: Sequence[str] = (),
    ) -> Chat:
        """Return a question with examples from your rows as chat messages, for any chat model.

        Args:
            question: what is asked.
            nearest: take the rows most like the question instead of the same few for every question.
            shots: examples; by default as many as were tried, none beside a context.
            context: passages that hold the facts.
        """
        count = (0 if context else self.told.shots) if shots is None else shots
        passages = "\n\n".join([_CONTEXT, *context, ""]) if context else ""
        case = Case(({"role": "user", "content": passages + question},), "")
        pool = self.measured.pool
        if nearest:
            asked = replace(case, turns=({"role": "user", "content": question},))
            chosen = nearest_shots(index_of(pool), pool, asked, count)
        else:
            chosen = random_shots(pool, count, 0, 0)
        return with_shots(case, chosen, self.form.goal)

    def shown(self) -> Shown:
        """Return verdict, evidence and next cell."""
        from ft_magic.advising.display import shown_advice

        return shown_advice(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shown = self.shown()
        return {"text/html": shown.html, "text/plain": shown.text}

    def _ipython_display_(self) -> None:
        """Show the form where somebody watches and something is unanswered; else IPython shows the tables."""
        if not self.unanswered or not widget.drawable():
            raise NotImplementedError
        from ft_magic.ui.advise_form import show_form

        show_form(self._repr_mimebundle_(), questions(self.form), self._answered)

    def _answered(self, answers: dict[str, str | None]) -> tuple[dict[str, str], str, str]:
        """Return (display, verdict, code) for the answers of the form."""
        made = self.answer(**answers)
        code = ", ".join(f'{key}="{word}"' for key, word in answers.items() if word)
        return made._repr_mimebundle_(), f"{made.verdict}. {made.why}", f"{self.told.variable}.answer({code})"

    def __repr__(self) -> str:
        return self.shown().text


def advice_on(measured: Measured, form: Form, told: Told) -> Advice:
    """Return the advice that measurements and form lead to."""
    found = measured.figures
    ruling = rule_on(found, form)
    rule = ruling.rule
    open_keys = tuple(key for key in form.unanswered if QUESTIONS[key].decides)
    asked = " ".join(QUESTIONS[key].asks for key in open_keys)
    names = Names(
        told.model, told.data_word, told.variable, told.signal, found.distinct, rule.name if rule else "", open_keys
    )  # fmt: skip
    return Advice(
        verdict=ruling.verdict,
        why=rule.why if rule else f"Nobody has answered, and the answers decide: {asked}",
        rule=rule.name if rule else "",
        source=rule.source if rule else "",
        evidence=evidence(found, form),
        conditions=ruling.conditions,
        changes=ruling.changes,
        contradictions=ruling.contradictions,
        next_cell=next_cell(ruling.verdict, names),
        figures=found,
        form=form,
        measured=measured,
        told=told,
    )


def questions(form: Form) -> list[dict[str, Any]]:
    """Return the form's questions as plain values for the front end."""
    return [
        {
            "key": key,
            "asks": question.asks,
            "answers": [[word, meaning] for word, meaning in question.answers.items()],
            "given": getattr(form, key),
        }
        for key, question in QUESTIONS.items()
    ]
