"""Plain words when a curve leaves its healthy range, and the verdict of a run in a few words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ft_magic.ui.history import History, number_of
from ft_magic.ui.show import number

# Fewer steps than this say nothing about a trend.
_TREND_STEPS = 30
# Held-out loss this far above its best is no noise: evaluations of one run use the same rows.
_OVERFIT_RISE = 0.02
# Training loss within this of its start after a third of the steps: nothing is learned.
_FLAT = 0.01
_RISING = 0.05
# A gradient this many times the median is a spike; clipping at 1.0 hides smaller ones.
_SPIKE = 10.0
# The first steps of a run have large gradients by nature.
_SETTLED_STEP = 5
# exp(-0.05): the model gives the training answer's every token 95 % on average, so it knows it by heart.
_MEMORISED = 0.05
# Rewards: so many steps in a row are no accident any more.
_LASTING_STEPS = 5
_ZERO_STEPS = 10
# Share of groups in which all answers score alike, and of answers cut at the length limit.
_ALIKE = 0.8
_CUT = 0.5
# A divergence that grows in proportion to the steps has 0.95 of its end value in the last tenth and 0.5 in the
# middle third, a ratio of 1.9; with the square of the steps it is 3.5. Below the floor (nats) it is a wobble.
_RUNAWAY, _RUNAWAY_FLOOR = 3.0, 0.1
# Held-out rewards come from sampled answers, so a smaller fall is noise.
_REWARD_FALL = 0.05
_REWARD = "metrics/reward"


@dataclass(frozen=True)
class Finding:
    """One thing a curve says.

    Attributes:
        verdict: a few words for a status line.
        text: what is seen, what it likely means and what to do.
    """

    verdict: str
    text: str


def findings(history: History) -> list[Finding]:
    """Return what the curves say, the gravest first; an empty list for a healthy run."""
    # Where answers are rewarded, the loss measures no quality: its mean is near zero by construction.
    checks: tuple[Callable[[History], Finding | None], ...] = (
        (_not_a_number, _all_zero, _reward_hacking, _runaway, _no_spread, _cut_off, _spike)
        if _rewarded(history)
        else (_not_a_number, _overfitting, _rising, _flat, _spike, _memorising, _wrong_preference)
    )
    return [found for check in checks if (found := check(history)) is not None]


def verdict(history: History, found: Sequence[Finding]) -> str:
    """Return the state of a run in a few words."""
    if history.status == "failed":
        return "failed"
    if found:
        return found[0].verdict
    rewarded = _rewarded(history)
    steps, values = history.curve(_REWARD if rewarded else "loss")
    if not steps:
        return "nothing trained yet" if history.status != "running" else "starting"
    if len(steps) < _TREND_STEPS // 3:
        return "too early to tell"
    first, last = _ends(values)
    if (last > first) if rewarded else (last < first):
        return "learning" if history.status == "running" else "learned"
    return "no trend yet"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first and last tenth (at least three values where there are so many)."""
    width = max(len(values) // 10, min(3, len(values)))
    return statistics.fmean(values[:width]), statistics.fmean(values[-width:])


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    width = len(values) // 3
    return statistics.fmean(values[:width]), statistics.fmean(values[-width:])


def _not_a_number(history: History) -> Finding | None:
    step = history.not_a_number()
    if step is None:
        return None
    return Finding(
        f"loss is not a number at step {step}",
        f"The loss is not a number at step {step}: the numbers overflowed. Lower learning_rate, use "
        "precision bf16 or fp32 instead of fp16, and look for empty or broken rows in the data.",
    )


def _overfitting(history: History) -> Finding | None:
    eval_steps, evals = history.eval_curve()
    if len(evals) < 2:
        return None
    best = min(range(len(evals)), key=evals.__getitem__)
    if evals[-1] <= evals[best] * (1 + _OVERFIT_RISE):
        return None
    steps, losses = history.curve("loss")
    since = [loss for step, loss in zip(steps, losses, strict=True) if step > eval_steps[best]]
    until = [loss for step, loss in zip(steps, losses, strict=True) if step <= eval_steps[best]]
    rise = f"Held-out loss rose from {number(evals[best])} at step {eval_steps[best]} to {number(evals[-1])}"
    if until and since and _ends(since)[1] < _ends(until)[1]:
        return Finding(
            f"overfitting since step {eval_steps[best]}",
            f"{rise} while the training loss fell: the model learns the training rows by heart. Use the "
            f"checkpoint near step {eval_steps[best]}, train for fewer epochs, or add data.",
        )
    return Finding(
        f"held-out loss is rising since step {eval_steps[best]}",
        f"{rise}: training makes the model worse on rows it has not seen. Lower learning_rate, and check "
        "that training and held-out rows are of one kind.",
    )


def _rising(history: History) -> Finding | None:
    losses = history.curve("loss")[1]
    if len(losses) < _TREND_STEPS:
        return None
    first, last = _thirds(losses)
    if last <= first + _RISING * abs(first):
        return None
    return Finding(
        "training loss is rising",
        f"The training loss rose from {number(first)} to {number(last)} (means of the first and last third): "
        "the learning rate is likely too high. Lower learning_rate by a factor of 3 to 10.",
    )


def _flat(history: History) -> Finding | None:
    losses, evals = history.curve("loss")[1], history.eval_curve()[1]
    if len(losses) < _TREND_STEPS:
        return None
    # The same held-out rows are measured each time, so their loss is the less noisy witness.
    first, last = (evals[0], evals[-1]) if len(evals) > 1 else _thirds(losses)
    if not first or abs(last - first) > _FLAT * abs(first):
        return None
    rates = history.curve("learning_rate")[1]
    now = f" (its peak is {number(max(rates), 2)})" if rates else ""
    return Finding(
        "not learning",
        f"The loss has stayed at {number(first)} since the start: little or nothing is learned. Raise "
        f"learning_rate{now}, train longer, or check that the answers are what the loss sees (%ft template).",
    )


def _spike(history: History) -> Finding | None:
    steps, norms = history.curve("grad_norm")
    settled = [(norm, step) for step, norm in zip(steps, norms, strict=True) if step > _SETTLED_STEP]
    if len(settled) < _TREND_STEPS // 3:
        return None
    typical = statistics.median(norm for norm, _ in settled)
    highest, step = max(settled)
    if not typical or highest < _SPIKE * typical:
        return None
    return Finding(
        f"gradient spike at step {step}",
        f"The gradient norm jumped to {number(highest, 3)} at step {step} (typical: {number(typical, 3)}): "
        "look at the rows of that step. If it happens again, lower learning_rate or max_grad_norm.",
    )


def _memorising(history: History) -> Finding | None:
    losses, evals = history.curve("loss")[1], history.eval_curve()[1]
    if len(losses) < _TREND_STEPS // 3 or (evals and evals[-1] < 2 * _MEMORISED):
        return None
    last = _ends(losses)[1]
    if last >= _MEMORISED:
        return None
    unseen = f", on held-out rows it is {number(evals[-1])}" if evals else ""
    return Finding(
        "memorising",
        f"The training loss is near zero ({number(last, 2)}){unseen}: the model repeats the training rows. "
        "Train for fewer epochs or add data, and judge it on held-out prompts.",
    )


def _wrong_preference(history: History) -> Finding | None:
    values = history.curve("metrics/rewards/accuracies")[1]
    if len(values) < _TREND_STEPS:
        return None
    last = _thirds(values)[1]
    # Half is what guessing gives.
    if last > 0.5:
        return None
    peak = max((number_of(e, "learning_rate") or 0.0 for e in history.steps.values()), default=0.0)
    return Finding(
        "cannot tell better from worse",
        f"The better answer wins in {last:.0%} of the pairs, no more than by guessing. Check that chosen and "
        f"rejected are not swapped, then raise learning_rate (now {number(peak, 2)}) or train longer.",
    )


# -- training by rewards


def _rewarded(history: History) -> bool:
    return bool(history.curve(_REWARD)[1])


def _always_zero(history: History) -> bool:
    last = history.curve(_REWARD)[1][-_ZERO_STEPS:]
    return len(last) == _ZERO_STEPS and not any(last)


def _all_zero(history: History) -> Finding | None:
    if not _always_zero(history):
        return None
    return Finding(
        "no answer is rewarded",
        f"The reward has been 0 for {_ZERO_STEPS} steps: no answer earns anything, so nothing is learned. Look at "
        "the samples, try the reward on such answers (%%reward_fn), reward parts of the way (the format, for "
        "example), or begin with easier prompts or with %%sft.",
    )


def _no_spread(history: History) -> Finding | None:
    last = history.curve("metrics/frac_reward_zero_std")[1][-_LASTING_STEPS:]
    if len(last) < _LASTING_STEPS or min(last) < _ALIKE or _always_zero(history):
        return None
    return Finding(
        "answers of a group score alike",
        f"For {_LASTING_STEPS} steps all answers of a group have scored alike in {min(last):.0%} of the groups or "
        "more: there is nothing to learn from those. Raise temperature or num_generations, make the reward finer, "
        "or take prompts that are neither too easy nor too hard.",
    )


def _reward_hacking(history: History) -> Finding | None:
    held = [(s, v) for s, e in history.evals.items() if (v := number_of(e, _REWARD)) is not None]
    values = history.curve(_REWARD)[1]
    if len(held) < 2 or len(values) < _TREND_STEPS // 3:
        return None
    best_step, best = max(held, key=lambda pair: pair[1])
    last = held[-1][1]
    (low, high), spread = _ends(values), max(abs(value) for _, value in held)
    if high <= low or best - last <= _REWARD_FALL * spread:
        return None
    return Finding(
        f"held-out reward is falling since step {best_step}",
        f"The reward rose from {number(low)} to {number(high)} in training, but on held-out prompts it fell from "
        f"{number(best)} at step {best_step} to {number(last)}: the model learns its prompts or a weakness of the "
        f"reward. Read the samples, use the checkpoint near step {best_step}, raise beta, or mend the reward.",
    )


def _runaway(history: History) -> Finding | None:
    values = history.curve("metrics/kl")[1]
    if len(values) < _TREND_STEPS:
        return None
    third = len(values) // 3
    middle, last = statistics.fmean(values[third : 2 * third]), _ends(values)[1]
    if last < _RUNAWAY_FLOOR or last <= _RUNAWAY * middle:
        return None
    return Finding(
        "running away from the reference",
        f"The distance to the reference model (KL) grows ever faster, to {number(last, 3)} from {number(middle, 3)} in "
        "the middle of the run: answers will soon be no language any more. Raise beta or lower learning_rate.",
    )


def _cut_off(history: History) -> Finding | None:
    last = history.curve("metrics/completions/clipped_ratio")[1][-_LASTING_STEPS:]
    if len(last) < _LASTING_STEPS or min(last) < _CUT:
        return None
    return Finding(
        "answers are cut off",
        f"For {_LASTING_STEPS} steps at least {min(last):.0%} of the answers have hit max_completion_length and were "
        "cut before their end, so the reward judges halves. Raise max_completion_length, or reward short answers "
        "(rewards: length).",
    )
