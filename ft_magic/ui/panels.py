"""Which curves a run shows, in which panels: plain values that ``charts`` and ``svg`` draw.

Pure: a history in, frozen rows out. Every curve is thinned to a fixed number of points, so that what a
notebook stores does not grow with the length of a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

from ft_magic.axes import METHODS
from ft_magic.ui.headline import headline
from ft_magic.ui.history import History, Mark
from ft_magic.ui.show import gib, number
from ft_magic.ui.summary import Summary
from ft_magic.ui.thinning import POINTS, smooth, thin

# Raw losses of single batches jump; with more points than this a smoothed curve says more. In a small panel
# more of them are needed before they blur.
_SMOOTH_FROM, _SMOOTH_SMALL_FROM = 30, 100
# Okabe and Ito's hues shifted to mid-tones: at least 3:1 against white and against #111111, and told apart by
# people who do not see red and green.
BLUE, ORANGE, GREEN, PURPLE, RED, TEAL = "#3b82f6", "#d97706", "#16a34a", "#a855f7", "#dc2626", "#0d9488"


@dataclass(frozen=True)
class Curve:
    """One line or row of points.

    Attributes:
        name: legend entry.
        x: optimizer steps.
        y: values, as many as steps.
        colour: CSS colour.
        style: ``line``, ``faint`` (raw values behind a smoothed line) or ``dots`` (line with markers).
    """

    name: str
    x: tuple[int, ...]
    y: tuple[float, ...]
    colour: str
    style: str = "line"


@dataclass(frozen=True)
class Sign:
    """A mark with its place on the loss curve.

    Attributes:
        mark: what it says.
        y: height on the loss curve.
    """

    mark: Mark
    y: float


@dataclass(frozen=True)
class Panel:
    """One small chart.

    Attributes:
        title: what is drawn, with its unit.
        curves: the lines.
        latest: the newest value in words, shown beside the title.
        small_numbers: whether ticks are better written as 2e-4.
        from_zero: whether the axis starts at zero, so that small jitter looks small.
    """

    title: str
    curves: tuple[Curve, ...]
    latest: str = ""
    small_numbers: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Chart:
    """Everything drawn of a run.

    Attributes:
        title: name, method and model.
        summary: the numbers.
        loss: the large panel: the loss, or what the method works for.
        side: learning rate, gradient norm, speed and memory.
        method: panels of the method's own metrics.
        signs: checkpoints, preflight, warnings, shortages of memory, stop and resume on the loss curve.
        notes: what to read below the curves: a problem, advice on unhealthy curves, the last warnings.
    """

    title: str
    summary: Summary
    loss: Panel
    side: tuple[Panel, ...]
    method: tuple[Panel, ...]
    signs: tuple[Sign, ...]
    notes: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """Right end of every step axis: the last step planned, or drawn where none is known."""
        drawn = max((curve.x[-1] for curve in self.loss.curves), default=0)
        return max(drawn, self.summary.total_steps, 1)


# Metrics that belong in one panel; any other metric gets a panel of its own.
_METRIC_PANELS = (
    ("reward margin", (("rewards/margins", "margin", BLUE),)),
    ("share of pairs won", (("rewards/accuracies", "accuracy", GREEN),)),
    ("rewards", (("rewards/chosen", "better answer", BLUE), ("rewards/rejected", "worse answer", ORANGE))),
)
# What other metrics are called above their panel.
_METRIC_TITLES = {
    "kl": "KL to the start, nats",
    "completions/mean_length": "answer length, tokens",
    "frac_reward_zero_std": "groups that score alike",
    "reward_std": "spread of the reward",
    "entropy": "entropy, nats",
    "clip_fraction": "share of steps clipped",
    "value_loss": "value loss",
    "explained_variance": "values: variance explained",
    "missing_stop": "answers without a stop",
    "nll_loss": "imitation loss",
    "log_odds_ratio": "log odds ratio",
}
_EACH_REWARD = re.compile(r"rewards/(\w+)/mean")
_REWARD_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL)
# One row of small panels; more would make the chart taller than a screen.
_MOST_METHOD_PANELS = 4


def build(history: History, *, title: str | None = None, problem: str = "") -> Chart:
    """Return what to draw of a run.

    Args:
        history: what happened.
        title: heading; by default name, method, update and model.
        problem: what to say if the run ended without a word of its own.
    """
    head = headline(history, title=title, problem=problem)
    loss = _main_panel(history, head.summary)
    return Chart(
        title=head.title,
        summary=head.summary,
        loss=loss,
        side=_side_panels(history, head.summary),
        method=_method_panels(history),
        signs=_signs(history.marks, loss),
        notes=head.notes,
    )


def _curve(name: str, x: Sequence[int], y: Sequence[float], colour: str, style: str = "line") -> Curve:
    return Curve(name, *thin(x, y), colour, style)


def _noisy(
    name: str, x: Sequence[int], y: Sequence[float], colour: str, smooth_from: int
) -> tuple[Curve, ...]:
    """Return a curve of single batches: as it is when short, else faint with a smoothed curve on top."""
    if not y:
        return ()
    if len(y) <= smooth_from:
        return (_curve(name, x, y, colour),)
    return _curve("each step" if name else "", x, y, colour, "faint"), _curve(name, x, smooth(y), colour)


def _main_panel(history: History, summary: Summary) -> Panel:
    """Return the large panel: the loss, or what the method works for where a loss says little."""
    steps, values = history.curve(history.goal)
    curves = [*_spread(history, steps, values), *_noisy("training", steps, values, BLUE, _SMOOTH_FROM)]
    eval_steps, evals = history.eval_curve(history.goal)
    if evals:
        curves.append(_curve("held-out", eval_steps, evals, ORANGE, "dots"))
    return Panel(summary.goal or "loss", tuple(curves), number(values[-1]) if values else "")


def _spread(history: History, steps: Sequence[int], values: Sequence[float]) -> list[Curve]:
    """Return the band of one standard deviation around a goal that is told with its spread."""
    spread = history.curve(f"{history.goal}_std")
    if spread[0] != steps or not steps:
        return []
    both = list(zip(values, spread[1], strict=True))
    up, down = [value + std for value, std in both], [value - std for value, std in both]
    return [_curve("spread", steps, up, BLUE, "faint"), _curve("", steps, down, BLUE, "faint")]


def _side_panels(history: History, summary: Summary) -> tuple[Panel, ...]:
    rates, norms = history.curve("learning_rate"), history.curve("grad_norm")
    speeds, memory = history.curve("tokens_per_s"), history.curve("memory_bytes")
    unit, size = ("GiB", 2**30) if max(memory[1], default=0) >= 2**30 else ("MiB", 2**20)
    scaled = [value / size for value in memory[1]]
    return (
        Panel("learning rate", _one(*rates, PURPLE), number(_last(rates[1]), 2), small_numbers=True),
        Panel("gradient norm", _one(*norms, TEAL), number(_last(norms[1]), 3)),
        Panel("tokens/s", _one(*speeds, GREEN), number(summary.tokens_per_s, 3), from_zero=True),
        Panel(
            f"memory, {unit}",
            (*_one(memory[0], scaled, RED), *_estimates(summary, memory[0], size)),
            gib(_last(memory[1])),
            from_zero=True,
        ),
    )


def _estimates(summary: Summary, steps: Sequence[int], size: int) -> tuple[Curve, ...]:
    """Return level lines of what the plan estimated and the preflight measured, beside what steps took."""
    if not steps:
        return ()
    levels = (("planned", summary.planned_bytes, BLUE), ("preflight", summary.tried_bytes, GREEN))
    ends = (steps[0], steps[-1])
    return tuple(
        Curve(name, ends, (value / size, value / size), colour, "faint")
        for name, value, colour in levels
        if value
    )


def _one(x: Sequence[int], y: Sequence[float], colour: str) -> tuple[Curve, ...]:
    return _noisy("", x, y, colour, _SMOOTH_SMALL_FROM)


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def _method_panels(history: History) -> tuple[Panel, ...]:
    """Return a panel for each group of metrics that the method's row names and the steps carry."""
    planned = history.first.get("planned")
    row = METHODS.get(str(planned.get("method"))) if planned else None
    last = history.last.get("step")
    carried = last.get("metrics") if last else None
    wanted = [
        key for key in (carried if isinstance(carried, dict) else ()) if row is None or key in row.metrics
    ]
    wanted = [key for key in wanted if f"metrics/{key}" != history.goal]
    if row is not None:
        wanted.sort(key=row.metrics.index)
    groups = [(title, [c for c in curves if c[0] in wanted]) for title, curves in _METRIC_PANELS]
    known = {key for _, curves in groups for key, _, _ in curves}
    groups += _each_reward(carried if isinstance(carried, dict) else ())
    groups += [(_METRIC_TITLES.get(key, key), [(key, "", BLUE)]) for key in wanted if key not in known]
    panels = [_metric_panel(history, title, curves) for title, curves in groups]
    return tuple(panel for panel in panels if panel.curves)[:_MOST_METHOD_PANELS]


def _each_reward(carried: Iterable[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the panel of single rewards where there are several, by their names."""
    found = [match for key in carried if (match := _EACH_REWARD.fullmatch(key))]
    if len(found) < 2:
        return []
    colours = cycle(_REWARD_COLOURS)
    return [("each reward", [(match[0], match[1], next(colours)) for match in found])]


def _metric_panel(history: History, title: str, curves: Sequence[tuple[str, str, str]]) -> Panel:
    """Return a panel of metrics; ``curves`` holds (metric, legend entry, colour)."""
    drawn: list[Curve] = []
    for key, name, colour in curves:
        x, y = history.curve(f"metrics/{key}")
        drawn += _noisy(name, x, y, colour, _SMOOTH_SMALL_FROM)
        eval_x, eval_y = history.eval_curve(f"metrics/{key}")
        if eval_y and len(curves) == 1:
            drawn.append(_curve("held-out", eval_x, eval_y, ORANGE, "dots"))
    latest = [curve.y[-1] for curve in drawn if curve.style == "line"]
    return Panel(title, tuple(drawn), " / ".join(number(value, 3) for value in latest))


def _signs(marks: Sequence[Mark], loss: Panel) -> tuple[Sign, ...]:
    """Place marks on the training curve, the newest ``POINTS`` of them."""
    training = next((curve for curve in loss.curves if curve.name == "training"), None)
    if training is None:
        return ()
    return tuple(Sign(mark, _height(training, mark.step)) for mark in marks[-POINTS:])


def _height(curve: Curve, step: int) -> float:
    """Return the value of the point nearest to a step."""
    return min(zip(curve.x, curve.y, strict=True), key=lambda point: abs(point[0] - step))[1]
