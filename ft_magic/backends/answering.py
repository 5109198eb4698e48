"""Let a model in memory answer prompts given as token ids. One function for training and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from ft_magic.template import Tokenizer


def answer_ids(
    model: Any,
    light: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    batch_prompts: int = 8,
) -> list[list[int]]:
    """Return the model's answer to each prompt as token ids, with the stop token where it came to one.

    Args:
        model: causal language model; left in the mode (training or evaluation) it was in.
        light: its tokenizer, which knows the stop and padding tokens.
        prompts: token ids of each prompt.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 = always the likeliest token.
        batch_prompts: prompts answered together.
    """
    was_training = model.training
    model.eval()
    try:
        answers: list[list[int]] = []
        for start in range(0, len(prompts), batch_prompts):
            batch = prompts[start : start + batch_prompts]
            answers += _answer_batch(model, light, batch, max_new_tokens, temperature)
    finally:
        model.train(was_training)
    return answers


def noise_seed(seed: int, place: int) -> int:
    """Return the seed of one answer's random numbers: they depend on the run's seed and the answer's place alone."""
    return int.from_bytes(blake2b(f"{seed}/{place}".encode(), digest_size=7).digest())


def padding_id(light: Tokenizer) -> int:
    """Return the token to pad with: the tokenizer's own, else its first stop token."""
    return light.pad_token_id if light.pad_token_id is not None else min(light.stop_ids)


def without_stop(ids: Sequence[int], light: Tokenizer) -> list[int]:
    """Return the ids before the first stop token."""
    stops = set(light.stop_ids)
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])


def _answer_batch(
    model: Any, light: Tokenizer, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float
) -> list[list[int]]:
    import torch

    stops, pad, width = sorted(light.stop_ids), padding_id(light), max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    # The model's whole distribution: no top-k or top-p that its generation config may ask for.
    chance: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=stops,
            pad_token_id=pad,
            use_cache=True,
            repetition_penalty=1.0,  # whatever the model's generation config asks for
            **chance,
        )
    return [_to_stop(row, stops) for row in out[:, width:].tolist()]


def _to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
