"""What answers are worth: scores of functions and reward models, weighted. Worker only.

A reward run over the policy's own base needs no second model: its adapter and its head are worn by the base that is
already in memory. Every other reward comes from ``ft_magic.rewards``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ft_magic.backends import Emit
from ft_magic.backends.answering import without_stop
from ft_magic.backends.ppo_answers import Answers, trunk_states
from ft_magic.backends.ppo_roles import Seat
from ft_magic.backends.scoring import Scorer
from ft_magic.errors import RunError
from ft_magic.planning.plans import Plan
from ft_magic.rewards import Rewards, load, read_items
from ft_magic.run_folder import RunFolder
from ft_magic.template import Tokenizer


@dataclass(frozen=True)
class SharedReward:
    """A reward run whose base is the policy's."""

    name: str
    weight: float
    adapter: Path


@dataclass(frozen=True)
class Panel:
    """Everything that judges answers: at most one reward model on the shared base, and the others."""

    shared: SharedReward | None
    others: Rewards | None

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each reward, the shared one first."""
        own = () if self.shared is None else (self.shared.name,)
        return (*own, *(() if self.others is None else self.others.names))

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each reward."""
        own = () if self.shared is None else (self.shared.weight,)
        return (*own, *(() if self.others is None else self.others.weights))


@dataclass(frozen=True)
class Scores:
    """Scores of some answers: each reward's, ``(rewards, answers)``, and their weighted sum, ``(answers,)``."""

    each: Tensor
    total: Tensor


def judged(
    panel: Panel,
    seat: Seat | None,
    answers: Answers,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    micro_batch_size: int,
) -> Scores:
    """Score answers.

    Args:
        panel: who judges.
        seat: the reward model on the shared base, where the panel has one.
        answers: to score.
        rows: fed row of each prompt, with the columns reward functions read.
        tokenizer: of the policy.
        micro_batch_size: answers through the reward model at once.

    Raises:
        RunError: a score is no finite number.
    """
    each: list[list[float]] = []
    if panel.shared is not None and seat is not None:
        each.append(model_scores(seat, answers, micro_batch_size=micro_batch_size))
    if panel.others is not None:
        texts = [tokenizer.decode(without_stop(answer, tokenizer)) for answer in answers.answers]
        each += Scorer(panel.others).scores(rows, texts)
    for name, scores in zip(panel.names, each, strict=True):
        if not all(math.isfinite(score) for score in scores):
            raise RunError(
                f"reward {name} gave a score that is no finite number.",
                "Let it return a finite number for every answer, also for an empty one.",
            )
    found = torch.tensor(each, dtype=torch.float32)
    return Scores(found, torch.tensor(panel.weights, dtype=torch.float32) @ found)


def model_scores(seat: Seat, answers: Answers, *, micro_batch_size: int) -> list[float]:
    """Return a reward model's score of each answer: its head's number at the last token.

    Prompts and answers are read as they are fed in the reward run's training (``rows.py``): a finished answer ends
    with its stop token, and nothing follows it.
    """
    found: list[float] = []
    with seat.taken():
        for start in range(0, len(answers), micro_batch_size):
            part = answers.rows(range(start, min(len(answers), start + micro_batch_size)))
            batch = part.batch(seat.device)
            states = trunk_states(seat, batch.ids, batch.seen)
            last = (batch.seen * torch.arange(batch.ids.shape[1], device=seat.device)).argmax(1)
            found += seat.numbers(states[torch.arange(len(part), device=seat.device), last]).tolist()
    return found


def why_apart(plan: Plan, path: Path) -> str:
    """Return why a reward run cannot use the policy's base; empty when it can."""
    folder = RunFolder(path)
    run = Plan.read(folder.plan)
    bits = run.update.bits
    if not run.update.peft or not folder.adapter.exists():
        return "it trained every weight"
    if Path(run.model_folder).resolve() != Path(plan.model_folder).resolve():
        return f"its base is {run.model_name}, not {plan.model_name}"
    if not plan.update.peft:
        return "this run changes every weight of the base"
    if bits != plan.update.bits:
        return f"its base was held in {bits or 'no'} bits, this run's in {plan.update.bits or 'no'} (0 = not quantized)"
    return "it saved whole modules" if run.spec.modules_to_save else ""


def panel_of(folder: Path, plan: Plan, emit: Emit) -> Panel:
    """Return who judges the answers of a run, and tell which reward models need a base of their own.

    Args:
        folder: the run folder, with ``rewards.json``.
        plan: of the run.
        emit: where a warning goes.
    """
    shared: SharedReward | None = None
    for item in read_items(folder):
        if item.kind != "run":
            continue
        path = Path(item.parameters["path"])
        why = why_apart(plan, path) or ("another reward run shares it already" if shared else "")
        if not why:
            shared = SharedReward(item.name, item.weight, RunFolder(path).adapter)
            continue
        emit(
            "warning",
            message=f"reward run {item.reward} cannot use the policy's base, because {why}: it is held in memory "
            "by itself.",
            fix="One reward run can share it: trained with an adapter over this base, held in the same bits.",
        )
    others = load(
        folder,
        plan,
        without=() if shared is None else (shared.name,),
        say=lambda message: emit("warning", message=message, fix="They get the mean of the others."),
    )
    return Panel(shared, others if others.names else None)
