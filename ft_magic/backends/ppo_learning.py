"""Learn from a rollout: what its answers were worth, then some passes of clipped steps. Worker only.

Sums are divided by the tokens of the whole mini-batch, so that the gradient does not depend on how many answers go
through the model at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ft_magic.backends import ppo_math as maths
from ft_magic.backends.ppo_answers import Answers, Batch, log_probs, log_probs_and_entropy, values
from ft_magic.backends.ppo_config import PPOConfig
from ft_magic.backends.ppo_roles import Roles

# Sums over tokens that one pass of learning collects, in this order.
_PASS_METRICS = (
    "policy_loss",
    "value_loss",
    "clip_fraction",
    "value_clip_fraction",
    "approx_kl",
    "ratio_mean",
)


@dataclass(frozen=True)
class Experience:
    """What a rollout was worth, token by token, ``(answers, tokens)``.

    Attributes:
        mask: true on tokens of answers.
        log_probs: of the policy that answered, in nats.
        values: expected before each token.
        advantages: how much better each token was than expected, whitened where the configuration says so.
        returns: what the values should have said.
        kl: exact log-ratio to the reference of each token, in nats.
        entropy: of the policy's distributions, in nats.
    """

    mask: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kl: Tensor
    entropy: Tensor

    def rows(self, chosen: Sequence[int], tokens: int) -> Experience:
        """Return the first tokens of some answers."""
        return Experience(*(getattr(self, field.name)[list(chosen), :tokens] for field in fields(self)))

    @property
    def answer_kl(self) -> float:
        """Mean log-ratio of a whole answer to the reference, in nats."""
        return float(torch.where(self.mask, self.kl, 0.0).sum(1).mean())


@dataclass(frozen=True)
class Learner:
    """What a step of learning needs besides its data.

    Attributes:
        roles: who is who.
        config: numbers of PPO.
        optimizer: over the weights of policy and values.
        scaler: keeps small fp16 gradients from vanishing; passes everything through in other formats.
        temperature: of the sampling.
        micro_batch_size: answers through the model at once.
    """

    roles: Roles
    config: PPOConfig
    optimizer: Any
    scaler: Any
    temperature: float
    micro_batch_size: int

    @property
    def weights(self) -> list[Tensor]:
        """The weights that learn."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]


def experience_of(learner: Learner, answers: Answers, scores: Tensor, kl_coef: float) -> Experience:
    """Return what a rollout was worth.

    Args:
        learner: roles and numbers.
        answers: of the policy as it is.
        scores: of whole answers, ``(answers,)``, penalties taken off.
        kl_coef: price of a nat of distance to the reference.
    """
    config, roles, device = learner.config, learner.roles, learner.roles.policy.device
    mask = answers.batch(device).mask
    old, spread, reference, expected = (torch.zeros(mask.shape, device=device) for _ in range(4))
    parts = [
        (rows, answers.rows(rows).batch(device)) for rows in _in_parts(len(answers), learner.micro_batch_size)
    ]
    with roles.policy.taken() as seat:
        for rows, batch in parts:
            wide = slice(batch.mask.shape[1])
            old[rows, wide], spread[rows, wide] = log_probs_and_entropy(seat, batch, learner.temperature)
    with roles.reference.taken() as seat:
        for rows, batch in parts:
            reference[rows, : batch.mask.shape[1]] = log_probs(seat, batch, learner.temperature)
    with roles.value.taken() as seat:
        for rows, batch in parts:
            expected[rows, : batch.mask.shape[1]] = values(seat, batch)
    kl = maths.kl_estimate(old, reference, config.kl_estimator)
    rewards = maths.token_rewards(scores.to(device), kl, mask, kl_coef)
    if config.whiten_rewards:
        rewards = maths.whiten(rewards, mask, shift_mean=False)
    advantage, returns = maths.advantages(rewards, expected, mask, config.gamma, config.lam)
    if config.whiten_advantages:
        advantage = maths.whiten(advantage, mask)
    return Experience(mask, old, expected, advantage, returns, old - reference, spread)


def learn(learner: Learner, answers: Answers, experience: Experience, *, seed: int) -> dict[str, float]:
    """Take ``num_ppo_epochs`` passes of ``num_mini_batches`` optimizer steps and return their mean metrics.

    Args:
        learner: roles and numbers.
        answers: the rollout.
        experience: what it was worth.
        seed: of the order in which answers are put into mini-batches.
    """
    config = learner.config
    order = torch.Generator().manual_seed(seed)
    sums = torch.zeros(len(_PASS_METRICS), dtype=torch.float64)
    tokens, norms = 0.0, []
    for _ in range(config.num_ppo_epochs):
        shuffled = torch.randperm(len(answers), generator=order).tolist()
        for mini in _in_parts(len(answers), len(answers) // config.num_mini_batches, shuffled):
            sums += _gradients(learner, answers, experience, mini)
            tokens += float(experience.mask[mini].sum())
            learner.scaler.unscale_(learner.optimizer)
            norms.append(float(torch.nn.utils.clip_grad_norm_(learner.weights, config.max_grad_norm)))
            learner.scaler.step(learner.optimizer)
            learner.scaler.update()
            learner.optimizer.zero_grad()
    found = dict(zip(_PASS_METRICS, (sums / tokens).tolist(), strict=True))
    finite = [norm for norm in norms if norm < float("inf")]  # fp16 skips a step whose gradients overflow
    return found | {"grad_norm": sum(finite) / max(1, len(finite))}


def _gradients(learner: Learner, answers: Answers, experience: Experience, mini: Sequence[int]) -> Tensor:
    """Collect the gradients of one mini-batch and return the sums of its metrics.

    First the policy goes forward and backward, then the values: they take turns on the same base, and recomputed
    activations need the adapter they were made with.
    """
    tokens = experience.mask[list(mini)].sum()
    parts = []
    for rows in _in_parts(len(mini), learner.micro_batch_size, mini):
        batch = answers.rows(rows).batch(learner.roles.policy.device)
        parts.append((batch, experience.rows(rows, batch.mask.shape[1])))
    policy = _policy_gradients(learner, parts, tokens)
    value = _value_gradients(learner, parts, tokens)
    found = policy | value
    return torch.tensor([found[name] for name in _PASS_METRICS], dtype=torch.float64)


def _policy_gradients(
    learner: Learner, parts: Sequence[tuple[Batch, Experience]], tokens: Tensor
) -> dict[str, float]:
    sums = dict.fromkeys(("policy_loss", "clip_fraction", "approx_kl", "ratio_mean"), 0.0)
    with learner.roles.policy.taken(train=True) as seat:
        for batch, before in parts:
            now = log_probs(seat, batch, learner.temperature)
            losses, clipped = maths.policy_losses(
                now, before.log_probs, before.advantages, learner.config.cliprange
            )
            loss = torch.where(before.mask, losses, 0.0).sum()
            learner.scaler.scale(loss / tokens).backward()
            log_ratio = torch.where(before.mask, now.detach() - before.log_probs, 0.0)
            sums["policy_loss"] += float(loss.detach())
            sums["clip_fraction"] += float((clipped & before.mask).sum())
            sums["approx_kl"] += float(log_ratio.square().sum() / 2)
            sums["ratio_mean"] += float(torch.where(before.mask, log_ratio.exp(), 0.0).sum())
    return sums


def _value_gradients(
    learner: Learner, parts: Sequence[tuple[Batch, Experience]], tokens: Tensor
) -> dict[str, float]:
    sums = dict.fromkeys(("value_loss", "value_clip_fraction"), 0.0)
    config = learner.config
    with learner.roles.value.taken(train=True) as seat:
        for batch, before in parts:
            errors, held = maths.value_losses(
                values(seat, batch), before.values, before.returns, config.cliprange_value
            )
            loss = torch.where(before.mask, errors, 0.0).sum()
            learner.scaler.scale(config.vf_coef * loss / tokens).backward()
            sums["value_loss"] += float(loss.detach())
            sums["value_clip_fraction"] += float((held & before.mask).sum())
    return sums


def _in_parts(count: int, size: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Split row numbers into parts of ``size``, the last one perhaps smaller."""
    rows = list(range(count) if order is None else order)
    return [rows[start : start + size] for start in range(0, count, size)]
