"""Answers of a policy: how they are sampled, and what each role says of their tokens. Worker only.

A batch is ``[padding, prompt | answer, padding]``: prompts end and answers begin at the same column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ft_magic.backends.ppo_math import entropy, token_log_probs
from ft_magic.backends.ppo_roles import Seat


@dataclass(frozen=True)
class Vocabulary:
    """Tokens that mean something to the loop: which end an answer, and which fills batches."""

    stops: frozenset[int]
    padding: int


@dataclass(frozen=True)
class Answers:
    """Prompts and what was answered, as token ids; an answer ends with its stop token unless it was cut off."""

    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tokens(self) -> int:
        """All tokens of prompts and answers."""
        return sum(map(len, self.prompts)) + sum(map(len, self.answers))

    @property
    def stopped(self) -> tuple[bool, ...]:
        """Whether each answer came to a stop token."""
        return tuple(bool(answer) and answer[-1] in self.vocabulary.stops for answer in self.answers)

    def rows(self, chosen: Sequence[int]) -> Answers:
        """Return some of the answers."""
        return Answers(
            tuple(self.prompts[row] for row in chosen),
            tuple(self.answers[row] for row in chosen),
            self.vocabulary,
        )

    def batch(self, device: torch.device | str) -> Batch:
        """Return the answers as tensors, no wider than the longest prompt and answer."""
        pad = self.vocabulary.padding
        left, right = max(map(len, self.prompts)), max(map(len, self.answers))
        ids = torch.full((len(self), left + right), pad)
        seen = torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
            first, last = left - len(prompt), left + len(answer)
            ids[row, first:last] = torch.tensor([*prompt, *answer])
            seen[row, first:last] = True
        return Batch(ids.to(device), seen.to(device), left)


@dataclass(frozen=True)
class Batch:
    """Answers as tensors.

    Attributes:
        ids: ``(answers, prompt width + answer width)``.
        seen: true on what is no padding, same shape.
        prompt_width: column where answers begin.
    """

    ids: Tensor
    seen: Tensor
    prompt_width: int

    @property
    def tokens(self) -> Tensor:
        """Ids of the answers, ``(answers, answer width)``."""
        return self.ids[:, self.prompt_width :]

    @property
    def mask(self) -> Tensor:
        """True on tokens of answers, ``(answers, answer width)``."""
        return self.seen[:, self.prompt_width :]

    @property
    def positions(self) -> Tensor:
        """Position of each token in its row, padding not counted."""
        return positions_of(self.seen)


def positions_of(seen: Tensor) -> Tensor:
    """Return the position of each token in its row, padding not counted."""
    return (seen.long().cumsum(1) - 1).clamp(min=0)


def log_probs(seat: Seat, batch: Batch, temperature: float) -> Tensor:
    """Return the log-probability (nats) a seated role gives each answered token, ``(answers, answer width)``."""
    return token_log_probs(_logits(seat, batch), batch.tokens, temperature)


def log_probs_and_entropy(seat: Seat, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and the entropy of each distribution, both ``(answers, answer width)``."""
    logits = _logits(seat, batch)
    return token_log_probs(logits, batch.tokens, temperature), entropy(logits, temperature)


def values(seat: Seat, batch: Batch) -> Tensor:
    """Return what a seated value role expects before each answered token, ``(answers, answer width)``."""
    hidden = trunk_states(seat, batch.ids, batch.seen)
    return seat.numbers(hidden[:, batch.prompt_width - 1 : -1])


def trunk_states(seat: Seat, ids: Tensor, seen: Tensor) -> Tensor:
    """Return the last hidden states of a seated role, ``(rows, tokens, width)``."""
    trunk = seat.causal.base_model
    out = trunk(input_ids=ids, attention_mask=seen.long(), position_ids=positions_of(seen), use_cache=False)
    states: Tensor = out.last_hidden_state
    return states


def _logits(seat: Seat, batch: Batch) -> Tensor:
    """Return the logits that predict the answered tokens; those of prompts are never made."""
    out = seat.causal(
        input_ids=batch.ids,
        attention_mask=batch.seen.long(),
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=batch.tokens.shape[1] + 1,
    )
    logits: Tensor = out.logits[:, :-1]
    return logits


def sample(
    seat: Seat,
    prompts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    *,
    longest: int,
    temperature: float = 1.0,
    seeds: Sequence[int] | None = None,
) -> Answers:
    """Let a seated role answer prompts.

    Each answer draws from ``softmax(logits / temperature)`` and nothing else (no top-k, top-p or repetition penalty of
    a generation config), because that is the distribution whose probabilities PPO compares. Each has random numbers
    of its own, so that it does not depend on the prompts it is batched with.

    Args:
        seat: the role, taken.
        prompts: token ids.
        vocabulary: stop and padding tokens.
        longest: tokens after which an answer is cut off.
        temperature: spread of the sampling.
        seeds: one for each prompt; None takes the likeliest token each time.
    """
    device, rows = seat.device, len(prompts)
    batch = Answers(tuple(map(tuple, prompts)), ((),) * rows, vocabulary).batch(device)
    noises = None if seeds is None else [torch.Generator(device).manual_seed(seed) for seed in seeds]
    stops = torch.tensor(sorted(vocabulary.stops), device=device)
    ids, seen = batch.ids, batch.seen
    positions, cache = batch.positions, None
    going = torch.ones(rows, dtype=torch.bool, device=device)
    picked: list[Tensor] = []
    while len(picked) < longest and bool(going.any()):
        out = seat.causal(
            input_ids=ids, attention_mask=seen.long(), position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = out.past_key_values
        token = torch.where(going, _pick(out.logits[:, -1].float() / temperature, noises), vocabulary.padding)
        picked.append(torch.where(going, token, -1))
        seen = torch.cat([seen, going.unsqueeze(1)], 1)
        positions, ids = positions[:, -1:] + 1, token.unsqueeze(1)
        going = going & ~torch.isin(token, stops)
    columns = torch.stack(picked, 1).tolist()
    said = tuple(tuple(token for token in row if token >= 0) for row in columns)
    return Answers(tuple(map(tuple, prompts)), said, vocabulary)


def _pick(logits: Tensor, noises: Any) -> Tensor:
    """Return one token a row: the likeliest, or one drawn by adding Gumbel noise to each logit."""
    if noises is None:
        return logits.argmax(-1)
    drawn = torch.stack([torch.empty_like(logits[0]).exponential_(generator=noise) for noise in noises])
    return (logits - drawn.log()).argmax(-1)
