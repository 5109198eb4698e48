"""What the kernel sees of an evaluation: figures, samples and a verdict that show themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ft_magic import jobs
from ft_magic.errors import SpecError
from ft_magic.evaluate import scorer
from ft_magic.evaluate.figures import LOSS, PREFERRED, Figure
from ft_magic.ui.live import ProgressLine
from ft_magic.ui.show import DASH, Shown, shown_table

if TYPE_CHECKING:
    from ft_magic.run import Run

# A change of held-out loss smaller than this (nats a token) is not told from noise on small held-out sets.
_NOTICEABLE_NATS = 0.01


@dataclass(frozen=True)
class Sample:
    """One held-out prompt: what was expected, and both answers."""

    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class Evaluation:
    """Before and after training on the held-out rows.

    Attributes:
        run: name of the run.
        examples: held-out rows scored.
        figures: what was measured, before and after; the first decides the verdict where no score is given.
        loss_before: mean loss of the base in nats a trained token, None without held-out rows.
        loss_after: the same of the trained model.
        accuracy_before: for pairs, share in which the better answer is likelier a token, else None.
        accuracy_after: the same of the trained model.
        scores_before: mean of each score over the samples, by name.
        scores_after: the same of the trained model.
        samples: answers to held-out prompts.
        verdict: one plain sentence.
    """

    run: str
    examples: int
    figures: tuple[Figure, ...]
    loss_before: float | None
    loss_after: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    scores_before: Mapping[str, float]
    scores_after: Mapping[str, float]
    samples: tuple[Sample, ...]
    verdict: str

    def shown(self) -> Shown:
        """Return figures and samples as tables."""
        rows: list[list[object]] = [[f.name, _shown(f, f.before), _shown(f, f.after)] for f in self.figures]
        rows += [
            [name, _score(self.scores_before[name]), _score(self.scores_after[name])]
            for name in self.scores_after
        ]
        figures = shown_table(rows, ("", "before", "after"), title=f"{self.run}: {self.verdict}")
        shown = self.samples[:4]
        if not shown:
            return figures
        cells = [[s.prompt, s.expected, s.before, s.after] for s in shown]
        return figures + shown_table(
            cells,
            ("prompt", "expected", "before", "after"),
            title=f"{len(shown)} of {len(self.samples)} held-out samples",
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shown = self.shown()
        return {"text/html": shown.html, "text/plain": shown.text}

    def __repr__(self) -> str:
        return self.shown().text


def evaluate(run: Run, *, samples: int, score: scorer.Score | None, max_new_tokens: int) -> Evaluation:
    """Evaluate a run; the work behind ``Run.evaluate``.

    Raises:
        RunError: the run has no result yet.
        SpecError: nothing was held out.
    """
    model = run.model_reference()
    if not run.folder.heldout_rows.exists():
        raise SpecError(
            f"run {run.name} held nothing out, so there is nothing to evaluate on.",
            "Train with eval_fraction: 0.1, or give eval_data.",
        )
    scorer.check(score, run)
    arguments = {"run": str(run.path), "model": model, "samples": samples, "max_new_tokens": max_new_tokens}
    with ProgressLine("Evaluating") as progress:
        raw = jobs.call("evaluate", arguments, progress)
    found = tuple(Sample(**sample) for sample in raw.pop("samples"))
    before = scorer.means(score, [(s.prompt, s.before, s.expected) for s in found])
    after = scorer.means(score, [(s.prompt, s.after, s.expected) for s in found])
    figures = tuple(Figure(**figure) for figure in raw["figures"])
    named = {figure.name: figure for figure in figures}
    loss, preferred = named.get(LOSS), named.get(PREFERRED)
    result = Evaluation(
        run=run.name,
        examples=raw["examples"],
        figures=figures,
        loss_before=loss.before if loss else None,
        loss_after=loss.after if loss else None,
        accuracy_before=preferred.before if preferred else None,
        accuracy_after=preferred.after if preferred else None,
        scores_before=before,
        scores_after=after,
        samples=found,
        verdict=_verdict(figures, before, after),
    )
    run.emit("evaluated", **asdict(result))
    run.report()
    return result


def _verdict(figures: Sequence[Figure], before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """One plain sentence from the first score, or from the figure that says most."""
    if after:
        name = next(iter(after))
        word = (
            "better" if after[name] > before[name] else "worse" if after[name] < before[name] else "unchanged"
        )
        return f"{word}: {name} {_score(before[name])} before, {_score(after[name])} after."
    if not figures:
        return "no held-out rows to score."
    preferences = [figure for figure in figures if figure.higher and figure.before is not None]
    told = (preferences or list(figures))[0]
    if told.before is None or told.after is None:
        return f"{told.name}: {_shown(told, told.after)}."
    change = told.after - told.before
    if abs(change) < _NOTICEABLE_NATS:
        return f"no noticeable change of the {told.name} ({change:+.3f})."
    lost = "worse on held-out rows" + (
        "" if told.higher else " (overfitted, or the learning rate is too high)"
    )
    word = "better" if (change > 0) == told.higher else lost
    name = told.name.partition(" (")[0]
    return f"{word}: {name} {_shown(told, told.before)} before, {_shown(told, told.after)} after."


def compare(run: Run, prompts: Sequence[str] | None, *, max_new_tokens: int) -> Shown:
    """Return the answers of base and trained model side by side; the work behind ``Run.compare``."""
    asked = list(prompts) if prompts is not None else _heldout_prompts(run)
    before = generate(run, asked, max_new_tokens=max_new_tokens, temperature=0.0, base=True)
    after = generate(run, asked, max_new_tokens=max_new_tokens, temperature=0.0, base=False)
    rows = [list(cells) for cells in zip(asked, before, after, strict=True)]
    return shown_table(rows, ("prompt", "base", run.name))


def _heldout_prompts(run: Run, most: int = 4) -> list[str]:
    from ft_magic.backends.rows import read
    from ft_magic.evaluate.heldout import prompt_text

    return [prompt_text(row) for row in islice(read(run.folder.heldout_rows), most)]


def generate(
    run: Run, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, base: bool
) -> list[str]:
    """Answer prompts in the warm process; the work behind ``Run.generate``."""
    if isinstance(prompts, str):
        raise SpecError("prompts is one string.", f"Write a list: run.generate([{prompts[:30]!r}]).")
    model = run.model_reference()
    if base and model["adapter"] is None:
        model["base"] = run.plan.model_folder
    arguments = {
        "model": model,
        "prompts": list(prompts),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "base": base,
    }
    with ProgressLine("Answering") as progress:
        return list(jobs.call("generate", arguments, progress))


def _shown(figure: Figure, value: float | None) -> str:
    if value is None:
        return DASH
    return _share(value) if figure.share else f"{value:.3f}"


def _score(value: float) -> str:
    """Return a mean score: of 0 to 1 as a share, any other as a number."""
    return _share(value) if 0 <= value <= 1 else f"{value:.3f}"


def _share(value: float | None) -> str:
    return DASH if value is None else f"{value:.0%}"
