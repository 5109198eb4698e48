"""What ``trainer:`` may set for PPO: the numbers of Schulman et al. 2017 (arXiv 1707.06347) with their sources.

"Ziegler" is Ziegler et al. 2019 (arXiv 1909.08593), which brought PPO to language models; "TRL" is TRL 1.12, the last
release with a PPO trainer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ft_magic.errors import SpecError, nearest
from ft_magic.planning.plans import Plan

KL_ESTIMATORS = ("k1", "k2", "k3")
_BETA = 0.05  # TRL's kl_coef


@dataclass(frozen=True)
class PPOConfig:
    """Numbers of the PPO loop that are no spec keys.

    Attributes:
        num_ppo_epochs: passes over each rollout (TRL, Ziegler: 4).
        num_mini_batches: optimizer steps a pass; ``batch_size`` is split evenly among them (TRL: 1).
        gamma: discount of later rewards (Ziegler, TRL: 1, only the whole answer counts).
        lam: lambda of generalised advantage estimation, arXiv 1506.02438 (Ziegler, TRL: 0.95).
        cliprange: a token's probability ratio is clipped to 1 +- this (PPO paper, Ziegler, TRL: 0.2).
        cliprange_value: a value may move this far from the rollout's before its loss is clipped (TRL: 0.2).
        vf_coef: weight of the value loss (Ziegler, TRL: 0.1).
        kl_coef: price of a nat of distance to the reference (TRL: 0.05); the spec's ``beta`` where given.
        kl_target: KL in nats an answer that an adaptive ``kl_coef`` aims at (Ziegler: 6); None keeps it fixed (TRL).
        kl_horizon: answers over which the adaptive ``kl_coef`` moves (Ziegler's code: 10000).
        kl_estimator: k1 (unbiased, Ziegler and TRL), k2 or k3 (never negative) of joschu.net/blog/kl-approx.html.
        whiten_rewards: divide the rewards of a rollout by their spread (Ziegler: true; TRL: false).
        whiten_advantages: give the advantages of a rollout mean 0 and variance 1 (Ziegler, TRL: always).
        missing_eos_penalty: taken off the score of an answer cut off before it stopped (TRL's PPO examples: 1.0).
        max_grad_norm: gradients of policy and values together are scaled down to this norm (TRL: 1.0).
        generation_batch_size: prompts answered at once; None = the whole batch.
    """

    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    kl_coef: float = _BETA
    kl_target: float | None = None
    kl_horizon: float = 10_000.0
    kl_estimator: str = "k1"
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    missing_eos_penalty: float = 1.0
    max_grad_norm: float = 1.0
    generation_batch_size: int | None = None


# Least value allowed and whether it is allowed itself.
_BOUNDS: dict[str, tuple[float, bool]] = {
    "num_ppo_epochs": (1, True), "num_mini_batches": (1, True), "gamma": (0, True), "lam": (0, True),
    "cliprange": (0, False), "cliprange_value": (0, False), "vf_coef": (0, True), "kl_coef": (0, True),
    "kl_target": (0, False), "kl_horizon": (0, False), "missing_eos_penalty": (0, True), "max_grad_norm": (0, False),
    "generation_batch_size": (1, True),
}  # fmt: skip
_AT_MOST_ONE = ("gamma", "lam")
_FLAG, _WHOLE, _NUMBER = "true or false", "whole number", "number"


def config_of(plan: Plan) -> PPOConfig:
    """Return the numbers of a run: the defaults, the spec's ``beta``, then what ``trainer:`` says.

    Raises:
        SpecError: ``trainer:`` names a field that does not exist or gives a value that cannot be.
    """
    spec = plan.spec
    known: dict[str, Any] = {field.name: field.default for field in fields(PPOConfig)}
    for key, value in spec.trainer.items():
        if key not in known:
            raise SpecError(
                f"trainer.{key} is no field of PPOConfig.{nearest(key, known)}",
                f"Its fields: {', '.join(known)}.",
            )
        _check(key, value, known[key])
    if spec.beta is not None and spec.trainer.get("kl_coef", spec.beta) != spec.beta:
        raise SpecError(
            f"beta {spec.beta:g} and trainer.kl_coef {spec.trainer['kl_coef']:g} are the same number, given twice.",
            "Leave one of them out.",
        )
    asked = {} if spec.beta is None else {"kl_coef": spec.beta}
    config = PPOConfig(**(asked | dict(spec.trainer)))
    if plan.settings.batch_size % config.num_mini_batches:
        raise SpecError(
            f"batch_size {plan.settings.batch_size} cannot be split into trainer.num_mini_batches "
            f"{config.num_mini_batches} equal parts.",
            "Choose a num_mini_batches that divides batch_size.",
        )
    return config


def _check(key: str, value: Any, default: Any) -> None:
    """Refuse a value of the wrong kind or out of range.

    Raises:
        SpecError: the value cannot be used.
    """
    if key == "kl_estimator" and value not in KL_ESTIMATORS:
        raise SpecError(
            f"trainer.kl_estimator {value!r} does not exist.", f"Choose one of: {', '.join(KL_ESTIMATORS)}."
        )
    if key == "kl_estimator" or (value is None and default is None):
        return
    kind = _kind(key, default)
    if isinstance(value, bool) != (kind == _FLAG) or not isinstance(
        value, (int, float) if kind == _NUMBER else int
    ):
        raise SpecError(f"trainer.{key}: {value!r} is no {kind}.", f"The default is {default}.")
    if key not in _BOUNDS:
        return
    least, allowed = _BOUNDS[key]
    if value < least or (value == least and not allowed) or (key in _AT_MOST_ONE and value > 1):
        most = " and at most 1" if key in _AT_MOST_ONE else ""
        raise SpecError(
            f"trainer.{key} {value!r} is out of range.",
            f"Write a number of {'at least' if allowed else 'more than'} {least:g}{most}.",
        )


def _kind(key: str, default: Any) -> str:
    if isinstance(default, bool):
        return _FLAG
    return _WHOLE if isinstance(default, int) or key == "generation_batch_size" else _NUMBER
