"""Curves with fewer points, and smoother ones: what a notebook stores does not grow with the length of a run."""

from __future__ import annotations

from collections.abc import Sequence

POINTS = 300


def thin(
    x: Sequence[int], y: Sequence[float], points: int = POINTS
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return at most so many points of a curve: first, last, and the extremes of stretches between."""
    if len(x) <= points:
        return tuple(x), tuple(y)
    stretches = (points - 2) // 2
    inner = len(x) - 2
    kept = [0]
    for i in range(stretches):
        start, end = 1 + inner * i // stretches, 1 + inner * (i + 1) // stretches
        low = min(range(start, end), key=y.__getitem__)
        high = max(range(start, end), key=y.__getitem__)
        kept += sorted({low, high})
    kept.append(len(x) - 1)
    return tuple(x[i] for i in kept), tuple(y[i] for i in kept)


def smooth(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average, without the pull of its start towards zero.

    The window is a twentieth of the curve, between 5 and 100 points.
    """
    keep = 1 - 2 / (min(max(len(values) / 20, 5), 100) + 1)
    total = weight = 0.0
    out = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight)
    return out
