"""Lets a local model write; runs in the warm process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft_magic.progress import Progress, silent


def write_job(
    *,
    model: Mapping[str, Any],
    chats: Sequence[list[dict[str, Any]]],
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Continue conversations by sampling; the job behind ``ft.synthesise``.

    Args:
        model: see ``ft_magic.evaluate.generate.load``.
        chats: the conversations, each ending with a user's turn.
        seeds: of which the first sets the random numbers of the batch.
        max_new_tokens: longest reply, in tokens.
        temperature: of the sampling.
        progress: told what is being done.

    Returns:
        ``text`` and ``whole`` (False where the longest length cut it off) of each reply.
    """
    import torch

    from ft_magic.backends.answering import answer_ids, without_stop
    from ft_magic.evaluate.generate import load
    from ft_magic.template import prompt_ids

    progress("loading the model", 0, 0)
    loaded = load(**model)
    # A model without a chat template continues text: the turns stand one below the other.
    plain = loaded.light.chat is None
    texts = ["\n\n".join(turn["content"] for turn in chat) + "\n\n" for chat in chats] if plain else chats
    prompts = [prompt_ids(loaded.light, {"prompt": text}) for text in texts]
    most = int(getattr(loaded.model.config, "max_position_embeddings", 0) or 0)
    fitting = [i for i, ids in enumerate(prompts) if not most or len(ids) + max_new_tokens <= most]
    torch.manual_seed(seeds[0])
    found = answer_ids(
        loaded.model,
        loaded.light,
        [prompts[i] for i in fitting],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    # A request too long for the model gets no reply, which counts as one that cannot be read.
    replies: list[dict[str, Any]] = [{"text": "", "whole": False} for _ in chats]
    for i, ids in zip(fitting, found, strict=True):
        kept = without_stop(ids, loaded.light)
        replies[i] = {"text": loaded.light.decode(kept), "whole": len(kept) < len(ids)}
    return replies
