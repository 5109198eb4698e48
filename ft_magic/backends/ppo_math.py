"""The arithmetic of PPO: tensors in, tensors out. Imported in the worker alone.

Shapes are ``(answers, tokens)``; ``mask`` is true on real tokens of an answer, which stand before its padding. What is
masked out never counts, whatever it holds.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_log_probs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Return the log-probability (nats) of each token under ``softmax(logits / temperature)``.

    Args:
        logits: ``(answers, tokens, vocabulary)``, those that predict ``tokens``.
        tokens: ids, ``(answers, tokens)``.
        temperature: of the sampling.
    """
    scaled = logits.float() / temperature
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Return the entropy (nats) of each next-token distribution, ``(answers, tokens)``."""
    log_probs = (logits.float() / temperature).log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over what the mask keeps."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Return the unbiased variance over what the mask keeps; 0 for a single value."""
    squares = torch.where(mask, (values - masked_mean(values, mask)) ** 2, 0.0).sum()
    return squares / (mask.sum() - 1).clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale to variance 1 and, with ``shift_mean``, to mean 0; zero outside the mask."""
    mean = masked_mean(values, mask)
    # 1e-8 keeps equal values finite.
    scaled = (values - mean) * torch.rsqrt(masked_variance(values, mask) + 1e-8)
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0.0)


def kl_estimate(log_probs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Return an estimate of KL(policy, reference) for each sampled token, in nats.

    With r = p_reference / p_policy: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r.
    Source: J. Schulman, joschu.net/blog/kl-approx.html.
    """
    log_ratio = reference - log_probs
    estimates = {"k1": -log_ratio, "k2": log_ratio**2 / 2, "k3": log_ratio.exp() - 1 - log_ratio}
    return estimates[estimator]


def penalised_scores(scores: Tensor, stopped: Tensor, penalty: float) -> Tensor:
    """Take the penalty off the scores of answers without a stop token, ``(answers,)``."""
    return torch.where(stopped, scores, scores - penalty)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Return each token's reward: the price of its KL, and on the last token the score of the whole answer."""
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    last = mask.sum(1) - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and the returns they are made of (advantage + value).

    ``delta_t = r_t + gamma V_(t+1) - V_t`` and ``A_t = delta_t + gamma lam A_(t+1)``; nothing follows the last token.
    Source: Schulman et al. 2016, arXiv 1506.02438, equations 11 to 16.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    found = torch.zeros_like(rewards)
    following, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for token in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, token] + gamma * next_value - values[:, token]
        following = torch.where(mask[:, token], delta + gamma * lam * following, 0.0)
        found[:, token], next_value = following, values[:, token]
    return found, found + values


def policy_losses(
    log_probs: Tensor, old: Tensor, advantage: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Return each token's clipped loss and whether the clip took away its gradient.

    ``-min(ratio A, clip(ratio, 1 - c, 1 + c) A)``: PPO paper, equation 7.
    """
    ratio = (log_probs - old).exp()
    free = -advantage * ratio
    held = -advantage * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(free, held), held > free


def value_losses(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """Return each token's clipped value loss, half a squared error, and whether the clip took away its gradient."""
    held = old + (values - old).clamp(-cliprange, cliprange)
    free_error, held_error = (values - returns) ** 2, (held - returns) ** 2
    return 0.5 * torch.maximum(free_error, held_error), held_error > free_error


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the returns' variance the values foresaw: 1 = all of it, 0 or less = none."""
    return 1 - masked_variance(returns - values, mask) / masked_variance(returns, mask).clamp(min=1e-8)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, horizon: float, answers: int) -> float:
    """Return the next ``kl_coef``: up when the policy is farther from the reference than the target, else down.

    ``e = clip(KL / target - 1, -0.2, 0.2)``, ``next = kl_coef (1 + e answers / horizon)``: Ziegler et al. 2019,
    section 2.2, with their K written as answers / horizon as in their code.
    """
    error = min(0.2, max(-0.2, kl / target - 1))
    return kl_coef * (1 + error * answers / horizon)
