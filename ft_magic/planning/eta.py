"""How long a run takes: from an earlier run like it on this machine, else a guess that says so. Pure values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ft_magic.axes import Method, Update
from ft_magic.events import Event
from ft_magic.memory import parameters
from ft_magic.planning.plans import Plan, Settings, Situation

_CPU_FLOPS_PER_CORE = 4e10  # fp32 matmuls of small models, measured 30-65 GFLOP/s a core
_FEWEST_STEPS = 2  # besides the first, which warms up
_PAUSE = 10.0  # times the median: between two steps somebody paused the run, or the machine slept
# FLOPs a weight and token: two forward, two for the input gradient, two more for weight gradients.
_FORWARD_FLOPS, _FROZEN_FLOPS, _FULL_FLOPS = 2, 4, 6
_GUESSED_START_S = 20.0  # imports of torch, transformers and trl, and a small model: 10-30 s seen


@dataclass(frozen=True)
class Speed:
    """What an earlier run took on this machine, in seconds.

    Attributes:
        run: its name.
        steps: optimizer steps measured.
        token_s: of training, a token of its rows (padding and all overhead included).
        eval_row_s: of evaluation, a held-out row; 0 where none was measured.
        save_s: of a checkpoint; 0 where none was measured.
        start_s: from the worker's start to the first step, and what that one took longer than the others.
    """

    run: str
    steps: int
    token_s: float
    eval_row_s: float = 0.0
    save_s: float = 0.0
    start_s: float = 0.0


@dataclass(frozen=True)
class Eta:
    """A duration in seconds, 0 where nothing is known; where it comes from; from how many measured steps."""

    seconds: float
    source: str
    steps: int = 0


def key(situation: Situation, settings: Settings, method: Method, update: Update) -> str:
    """Return what runs must share for one to tell how fast the other is."""
    machine = situation.hardware
    device = machine.gpus[0].name if machine.gpus else f"{machine.cpu_name} x {settings.threads}"
    model = f"{situation.model_name} ({parameters(situation.facts)})"
    what = [model, method.name, update.name, settings.backend, settings.precision, device]
    return " | ".join([*what, *(["checkpointing"] if settings.gradient_checkpointing else [])])


def step_tokens(situation: Situation, settings: Settings) -> float:
    """Return the tokens a step reads and answers, on average and without padding."""
    lengths = [min(length, settings.max_length) for length in situation.lengths.tokens]
    answers = settings.max_completion_length * max(1, settings.num_generations)
    return settings.batch_size * (sum(lengths) / max(1, len(lengths)) + answers)


def eta(situation: Situation, settings: Settings, method: Method, update: Update) -> Eta:
    """Return how long a run will take, loading, evaluations and checkpoints included where they were measured."""
    tokens = step_tokens(situation, settings)
    known = situation.speeds.get(key(situation, settings, method, update))
    if known is not None:
        seconds = duration_s(known, settings, tokens)
        return Eta(
            seconds,
            f"from {known.steps} steps of run {known.run} on this machine, {_rate(known.token_s)} a token",
            known.steps,
        )
    if settings.device != "cpu" or method.generates:
        return Eta(0.0, "unknown until its first steps: no run like this was measured on this machine")
    a_second = _CPU_FLOPS_PER_CORE * settings.threads / parameters(situation.facts)
    guess = Speed(
        run="",
        steps=0,
        token_s=(_FULL_FLOPS if update.family == "full" else _FROZEN_FLOPS) / a_second,
        eval_row_s=_FORWARD_FLOPS * tokens / settings.batch_size / a_second,
        start_s=_GUESSED_START_S,
    )
    seconds = duration_s(guess, settings, tokens)
    return Eta(seconds, "a guess from the model's size: no run like this was measured on this machine")


def duration_s(speed: Speed, settings: Settings, tokens: float) -> float:
    """Return the seconds of a whole run at a speed; ``tokens`` are those of a step."""
    steps = settings.total_steps
    evaluations = (
        math.ceil(steps / settings.eval_steps) if settings.eval_examples else 0
    )  # and after the last
    saves = math.ceil(steps / settings.save_steps)
    return (
        speed.start_s
        + steps * tokens * speed.token_s
        + evaluations * settings.eval_examples * speed.eval_row_s
        + saves * speed.save_s
    )


def learned(plan: Plan, name: str, events: Sequence[Event]) -> Speed | None:
    """Return the speed that a run's last session shows; None where too few steps tell.

    A run that memory made smaller on the way tells nothing: it had two speeds.
    """
    if any(event.kind == "oom_retry" for event in events) or not plan.tokens_a_step:
        return None
    begins = [place for place, event in enumerate(events) if event.kind == "started"]
    session = events[begins[-1] :] if begins else events
    spans = _spans(session)
    first = next((event.t for event in session if event.kind == "step"), 0.0)
    if len(spans["step"]) <= _FEWEST_STEPS:
        return None
    warm, *steps = spans["step"]
    usual = statistics.median(steps)
    steps = [span for span in steps if span < _PAUSE * usual]
    step_s = statistics.fmean(steps)
    evals, saves = spans["eval"], spans["checkpoint"]
    return Speed(
        run=name,
        steps=len(steps),
        token_s=step_s / plan.tokens_a_step,
        eval_row_s=statistics.fmean(evals) / max(1, plan.settings.eval_examples) if evals else 0.0,
        save_s=statistics.fmean(saves) if saves else 0.0,
        start_s=max(0.0, first - session[0].t - warm + max(0.0, warm - step_s)),
    )


def _spans(session: Sequence[Event]) -> Mapping[str, list[float]]:
    """Return the seconds up to each event of a kind from the one before; the first step's is its own word."""
    found: dict[str, list[float]] = {"step": [], "eval": [], "checkpoint": []}
    for before, event in pairwise(session):
        if event.kind == "step" and not found["step"]:
            found["step"].append(float(event.get("step_s") or 0.0))
        elif event.kind in found:
            found[event.kind].append(event.t - before.t)
    return found


def _rate(token_s: float) -> str:
    return f"{1000 * token_s:.3g} ms" if token_s >= 1e-3 else f"{1e6 * token_s:.3g} \u00b5s"
