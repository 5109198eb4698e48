"""What an advice rests on besides the form: counts of the rows and measured scores. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from ft_magic.advising.estimates import Estimate

# Fewer facts than this say nothing about where facts come from: one in ten is the smallest share a rule reads.
_FEWEST_FACTS = 10


@dataclass(frozen=True)
class Way:
    """One way of asking the base model, measured on the held-out rows.

    Attributes:
        shots: examples before the question, mean over the rows.
        prompt_tokens: length of what the model reads, mean over the rows; None behind an endpoint.
        score: by the metric that decides; None where nothing was answered.
        loss: of the expected answers, in nats a token, mean over the rows; None behind an endpoint.
        scores: further metrics, by name.
    """

    shots: float
    prompt_tokens: float | None
    score: Estimate | None
    loss: Estimate | None
    scores: tuple[tuple[str, Estimate], ...] = ()


@dataclass(frozen=True)
class Gain:
    """What one way brings over another on the same rows: score (more is better), loss (less is better)."""

    score: Estimate | None
    loss: Estimate | None


@dataclass(frozen=True)
class Figures:
    """Everything counted and measured.

    Attributes:
        rows: rows with an answer.
        distinct: different ones among them.
        kind: of the answers: ``json``, ``label``, ``number``, ``short``, ``text``; ``none`` without answers.
        same_shape: share of the answers with the commonest form; None for free text.
        words: median length of an answer, in words.
        spread: words of long answers over words of short ones.
        facts: numbers, codes and names seen in the answers.
        asked: share of these that stands in the row's own question; None without any.
        known: share that stands in another row's answer alone.
        unknown: share that stands nowhere else.
        metric: name of the metric that decides.
        absolute: whether its score says by itself how good answers are.
        examples: held-out rows measured; 0 = nothing was measured.
        zero: the question alone.
        few: with random examples.
        nearest: with the most similar examples.
        few_gain: random examples over none.
        nearest_gain: similar examples over random ones.
    """

    rows: int
    distinct: int
    kind: str
    same_shape: float | None = None
    words: float = 0.0
    spread: float = 1.0
    facts: int = 0
    asked: float | None = None
    known: float | None = None
    unknown: float | None = None
    metric: str = ""
    absolute: bool = True
    examples: int = 0
    zero: Way | None = None
    few: Way | None = None
    nearest: Way | None = None
    few_gain: Gain | None = None
    nearest_gain: Gain | None = None

    @property
    def outside(self) -> float | None:
        """Share of the answers' facts that their questions do not hold; None where too few were seen."""
        return None if self.asked is None or self.facts < _FEWEST_FACTS else 1 - self.asked
