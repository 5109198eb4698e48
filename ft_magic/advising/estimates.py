"""A mean with its 95 % interval, from few rows; and the difference of two ways on the same rows. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

_Z95 = 1.959964  # 97.5 % quantile of the normal distribution
_RESAMPLES = 2000  # Efron and Tibshirani (1993), section 13.3: 1,000 and more for percentile intervals
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over rows.

    Attributes:
        mean: of the rows.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def sure_sign(self) -> int:
        """1 or -1 where the whole interval lies on one side of zero, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def wilson(scores: Sequence[float]) -> Estimate:
    """Return the mean of scores between 0 and 1 with Wilson's interval (Wilson 1927).

    Exact shares have the largest variance that a score between 0 and 1 of that mean can have, so for partial scores
    the interval is too wide rather than too narrow.
    """
    count, mean = len(scores), fmean(scores)
    square = _Z95**2 / count
    middle = (mean + square / 2) / (1 + square)
    half = _Z95 / (1 + square) * math.sqrt(mean * (1 - mean) / count + square / (4 * count))
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(values: Sequence[float]) -> Estimate:
    """Return the mean with the percentile bootstrap interval; of differences on the same rows, a paired one."""
    chance = random.Random(_SEED)  # noqa: S311  resampling, not a secret
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    edge = round(0.025 * _RESAMPLES)
    return Estimate(fmean(values), means[edge], means[-edge - 1])


def difference(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Return the mean of ``after - before``, paired by row."""
    return bootstrap([a - b for a, b in zip(after, before, strict=True)])
