"""Figures of an evaluation: what is measured before and after, and which way is better. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from ft_magic.evaluate.losses import Likelihood, mean_loss


@dataclass(frozen=True)
class Figure:
    """One measurement of the held-out rows.

    Attributes:
        name: what it is, with its unit.
        before: of the model before training; None where it has none (a score head that did not exist).
        after: of the trained model.
        higher: whether more is better.
        share: whether it is a share, shown in percent.
    """

    name: str
    before: float | None
    after: float | None
    higher: bool = False
    share: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


_SURE = 50.0  # margins beyond this are certain in any number format
LOSS = "held-out loss (nats a token)"
PREFERRED = "better answer preferred"
GAINED = "better answer gained more than the worse"
RANKED = "good answers likelier than bad ones"
RANKED_GAIN = "good answers gained more than bad ones"

Side = Mapping[str, Sequence[Likelihood]]


def of_losses(before: Sequence[Likelihood], after: Sequence[Likelihood]) -> list[Figure]:
    """Return the mean loss of demonstrations or texts."""
    return [Figure(LOSS, mean_loss(before), mean_loss(after))]


def of_pairs(before: Side, after: Side) -> list[Figure]:
    """Return loss of the better answers and how often they win over the worse ones.

    Preferred: the higher mean log-probability a token. Gained: the higher rise of the log-probability over the model
    before training, which is the implicit reward of DPO (arXiv 2305.18290, section 4).
    """
    won, wins = (_share(_means(side["chosen"]), _means(side["rejected"])) for side in (before, after))
    gains = [_gains(before[name], after[name]) for name in ("chosen", "rejected")]
    return [
        *of_losses(before["chosen"], after["chosen"]),
        Figure(PREFERRED, won, wins, higher=True, share=True),
        Figure(GAINED, None, _share(*gains), higher=True, share=True),
    ]


def of_judged(
    before: Sequence[Likelihood], after: Sequence[Likelihood], good: Sequence[bool]
) -> list[Figure]:
    """Return how well good answers are told from bad ones: the chance that a good one ranks above a bad one."""
    figures = of_losses(*([x for x, ok in zip(side, good, strict=True) if ok] for side in (before, after)))
    if all(good) or not any(good):
        return figures
    was, now = (_above(_means(side), good) for side in (before, after))
    return [
        *figures,
        Figure(RANKED, was, now, higher=True, share=True),
        Figure(RANKED_GAIN, None, _above(_gains(before, after), good), higher=True, share=True),
    ]


def of_scores(chosen: Sequence[float], rejected: Sequence[float]) -> list[Figure]:
    """Return accuracy and calibration of a reward model: sigmoid(margin) is the chance it gives the better answer.

    Calibration error: mean gap between that chance and how often it is right, over ten equal bins of confidence
    (Guo et al. 2017, arXiv 1706.04599). Brier score: mean squared error of the chance.
    """
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    chances = [1 / (1 + exp(-max(-_SURE, min(_SURE, margin)))) for margin in margins]
    return [
        Figure("better answer scored higher", None, _share(chosen, rejected), higher=True, share=True),
        Figure("calibration error", None, _calibration_error(chances), share=True),
        Figure("Brier score", None, sum((1 - p) ** 2 for p in chances) / len(chances)),
        Figure("mean margin", None, sum(margins) / len(margins), higher=True),
    ]


def _calibration_error(chances: Sequence[float], bins: int = 10) -> float:
    """Return the expected calibration error of chances given to the true answer."""
    groups: dict[int, list[tuple[float, float]]] = {}
    for chance in chances:
        confidence = max(chance, 1 - chance)  # of two answers the likelier one is named; of equal ones either
        right = (chance > 0.5) + 0.5 * (chance == 0.5)
        groups.setdefault(min(bins - 1, int((confidence - 0.5) * 2 * bins)), []).append((confidence, right))
    gaps = [
        abs(sum(c for c, _ in group) / len(group) - sum(r for _, r in group) / len(group)) * len(group)
        for group in groups.values()
    ]
    return sum(gaps) / len(chances)


def _means(found: Sequence[Likelihood]) -> list[float]:
    """Return the mean log-probability a token of each answer."""
    return [-loss / max(1, count) for loss, count in found]


def _gains(before: Sequence[Likelihood], after: Sequence[Likelihood]) -> list[float]:
    """Return how much each answer's log-probability rose, in nats."""
    return [old - new for (old, _), (new, _) in zip(before, after, strict=True)]


def _share(better: Sequence[float], worse: Sequence[float]) -> float:
    """Return the share of pairs in which the better answer has the higher value; a tie counts half."""
    wins = sum((a > b) + 0.5 * (a == b) for a, b in zip(better, worse, strict=True))
    return wins / len(better)


def _above(values: Sequence[float], good: Sequence[bool]) -> float:
    """Return the chance that a good answer has a higher value than a bad one (area under the ROC curve)."""
    ups = [v for v, ok in zip(values, good, strict=True) if ok]
    downs = [v for v, ok in zip(values, good, strict=True) if not ok]
    wins = sum((a > b) + 0.5 * (a == b) for a in ups for b in downs)
    return wins / (len(ups) * len(downs))
