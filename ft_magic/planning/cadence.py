"""How often a run evaluates and saves, and how much is evaluated at once."""

from __future__ import annotations

from dataclasses import replace

from ft_magic.axes import Method
from ft_magic.errors import SpecError
from ft_magic.memory import Memory, Workload, estimate
from ft_magic.planning.fit import Choice
from ft_magic.planning.padding import expected_longest_tokens
from ft_magic.planning.plans import Situation
from ft_magic.spec import Spec

# Held-out rows scored during training: at most 64, and few enough that evaluating costs a fifth of training
# (a forward pass is half of a LoRA step); evaluate scores all of them.
_LIVE_EVAL_EXAMPLES = (8, 64)
_LIVE_EVAL_SHARE = 0.2
_EVALUATIONS = 5  # evaluations and checkpoints a run when the spec names no interval
# A session that ends without warning (Colab, Kaggle, a closed laptop) then costs at most this.
_LOST_MINUTES = 10.0
SAVING_SHARE = 0.05  # of a run's time that checkpoints nobody asked for may take, as measured
_MOST_PADDING = (
    1.05  # tokens computed per token of rows; a larger batch saves less than that on a CPU (planning/fit)
)
_EVAL_KEY = "per_device_eval_batch_size"
# What evaluating holds no more than a training step does: it keeps no activations, and one layer's at a time.
_LAYER_COPIES = 8  # hidden states and the feed-forward part of one layer alive at once (memory/block)


def cadence(spec: Spec, situation: Situation, steps: int, batch: int) -> dict[str, Choice[object]]:
    """Decide when a run evaluates and saves.

    Args:
        spec: what was asked.
        situation: held-out rows.
        steps: optimizer steps of the run.
        batch: examples a step.
    """
    every = max(1, steps // _EVALUATIONS)
    return {
        "eval_steps": _asked_or(spec.eval_steps, every, "about five evaluations a run"),
        "eval_examples": _eval_examples(situation, steps * batch),
        "save_steps": _asked_or(
            spec.save_steps,
            every,
            f"about five checkpoints a run, fewer where they take over {SAVING_SHARE:.0%} of the time; two are kept",
        ),
        "save_every": _save_every(spec),
    }


def _save_every(spec: Spec) -> Choice[float]:
    """Return the minutes after which a checkpoint is due whatever the step; 0 where steps were asked for."""
    if spec.save_every is not None:
        return Choice(float(spec.save_every), "asked for")
    if spec.save_steps is not None:
        return Choice(0.0, "save_steps was asked for")
    return Choice(
        _LOST_MINUTES,
        f"at most {_LOST_MINUTES:g} minutes are lost when a session ends (more where saving takes over "
        f"{SAVING_SHARE:.0%}); write save_steps or save_every for another interval",
    )


def _asked_or(asked: int | None, default: int, why: str) -> Choice[object]:
    return Choice(asked, "asked for") if asked is not None else Choice(default, why)


def _eval_examples(situation: Situation, trained_examples: int) -> Choice[object]:
    least, most = _LIVE_EVAL_EXAMPLES
    affordable = round(2 * _LIVE_EVAL_SHARE * trained_examples / _EVALUATIONS)
    chosen = min(situation.heldout_examples, max(least, min(most, affordable)))
    return Choice(chosen, "of the held-out rows while training, at a fifth of its cost; evaluate scores all")


def eval_batch(
    spec: Spec, situation: Situation, method: Method, work: Workload, memory: Memory, rows: int, group: int
) -> Choice[int]:
    """Choose how many sequences are evaluated at once.

    As many as fit into the memory that training takes anyway, logits of every token included where the loss needs
    them; on a CPU no more than rows of uneven length allow without padding.

    Args:
        spec: what was asked.
        situation: model and lengths.
        method: row of the method axis.
        work: a training micro-batch as planned.
        memory: its peak.
        rows: held-out rows evaluated at once at most.
        group: answers a prompt that are compared, 0 elsewhere.

    Raises:
        SpecError: what was asked for is no number of rows.
    """
    if (asked := spec.trainer.get(_EVAL_KEY)) is not None:
        if not isinstance(asked, int) or asked < 1:
            raise SpecError(f"trainer.{_EVAL_KEY} {asked!r} is no number of rows.", "Write 1 or more.")
        return Choice(asked, "asked for")
    if not rows:
        return Choice(0, "")
    if method.generates:
        whole = max(1, work.micro_batch_examples // max(1, group)) * max(1, group)
        return Choice(whole, "whole groups of answers, as in training" if group else "as in training")
    most = max(method.least_micro_batch, rows)
    sizes = [size for size in _doubled(most) if size >= method.least_micro_batch]
    fitting = [
        size for size in sizes if eval_bytes(situation, work, memory, size) <= memory.total_bytes
    ] or sizes[:1]
    even = [size for size in fitting if work.gpu or _padding(situation, work, size) <= _MOST_PADDING]
    chosen = (even or fitting[:1])[-1]
    why = "fits into the memory of training: no activations are kept"
    if chosen < fitting[-1]:
        why = "more would be padding: rows are uneven"
    elif chosen < sizes[-1]:
        why = "the most that fits into the memory of training, logits counted"
    return Choice(chosen, f"{why}; trainer: {{{_EVAL_KEY}: N}} changes it")


def eval_bytes(situation: Situation, work: Workload, memory: Memory, size: int) -> int:
    """Return roughly the peak of evaluating ``size`` examples at once, in bytes."""
    logits = estimate(situation.facts, replace(work, micro_batch_examples=size)).parts["logits and loss"]
    facts, sequences = situation.facts, size * work.sides
    layer = _LAYER_COPIES * (facts.hidden_size + facts.intermediate_size) * work.weight_bytes
    held = memory.total_bytes - sum(
        memory.parts.get(name, 0) for name in ("activations", "logits and loss", "gradients")
    )
    return held + logits + sequences * work.length_tokens * layer


def _doubled(most: int) -> list[int]:
    """Return 1, 2, 4 and so on up to ``most``, and ``most`` itself."""
    sizes = [1]
    while 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return sizes if sizes[-1] == most else [*sizes, most]


def _padding(situation: Situation, work: Workload, size: int) -> float:
    """Return the tokens computed per token of the rows when ``size`` of them go through the model at once."""
    lengths = [min(length, work.length_tokens) for length in situation.lengths.tokens]
    mean = sum(lengths) / max(1, len(lengths))
    return expected_longest_tokens(lengths, size) / mean if mean else 1.0
