"""Asks a model in the warm process: how likely are the expected answers, and what does it answer itself?

Both need the prompt read, which with examples in it is nearly all of the work, so it is read once: the expected
answer and the model's own go on from the same key-value cache.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft_magic.progress import Progress, silent

if TYPE_CHECKING:
    from ft_magic.evaluate.generate import Loaded
    from ft_magic.evaluate.losses import Likelihood

_BATCH_PROMPTS = 8  # read together, as evaluation does; more only pads more on a CPU
Ids = Sequence[int]


def probe_job(
    *,
    model: Mapping[str, Any],
    prompts: Sequence[Any],
    expected: Sequence[str],
    max_new_tokens: int,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Score and answer prompts; the job behind ``ft.advise``.

    Args:
        model: see ``ft_magic.evaluate.generate.load``.
        prompts: what the model reads: messages, or text for a model without a chat template.
        expected: the answer to each.
        max_new_tokens: longest answer, in tokens.
        progress: told what is being done.

    Returns:
        ``loss`` of the expected answer in nats a token, and ``text``, the model's likeliest answer, of each prompt.
    """
    from ft_magic.backends.answering import without_stop
    from ft_magic.evaluate.generate import load
    from ft_magic.template import prompt_ids, render

    progress("loading the model", 0, 0)
    loaded = load(**model)
    ids = [prompt_ids(loaded.light, {"prompt": prompt}) for prompt in prompts]
    wanted = [
        render(loaded.light, {"prompt": prompt, "completion": answer}, train_on="last").trained_ids
        for prompt, answer in zip(prompts, expected, strict=True)
    ]
    result: list[dict[str, Any]] = [{} for _ in ids]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), _BATCH_PROMPTS):
        progress("asking the model", start, len(order))
        batch = order[start : start + _BATCH_PROMPTS]
        losses, answers = ask_batch(
            loaded, [ids[i] for i in batch], [wanted[i] for i in batch], max_new_tokens
        )
        for i, (loss, count), answer in zip(batch, losses, answers, strict=True):
            text = loaded.light.decode(without_stop(answer, loaded.light))
            result[i] = {"loss": loss / max(1, count), "text": text}
    progress("asking the model", len(order), len(order))
    return result


def ask_batch(
    loaded: Loaded, prompts: Sequence[Ids], wanted: Sequence[Ids], max_new_tokens: int
) -> tuple[list[Likelihood], list[list[int]]]:
    """Return (summed negative log-likelihood, tokens) of each wanted answer, and the ids of the model's own.

    Args:
        loaded: the model.
        prompts: token ids of each prompt.
        wanted: token ids of each expected answer, with its stop.
        max_new_tokens: longest answer, in tokens.
    """
    import torch

    from ft_magic.backends.answering import answer_ids, padding_id
    from ft_magic.evaluate.losses import labelled, losses

    adapter = getattr(loaded.model, "active_peft_config", None)
    width = max(map(len, prompts))
    if width < 2 or (adapter is not None and adapter.is_prompt_learning):
        # Virtual tokens stand before the prompt, put there by PEFT's own forward: read twice, the plain way.
        given = [labelled(prompt, answer) for prompt, answer in zip(prompts, wanted, strict=True)]
        own = answer_ids(loaded.model, loaded.light, prompts, max_new_tokens=max_new_tokens)
        return losses(loaded.model, given, silent, ""), own
    ids, mask = (part.to(loaded.model.device) for part in _padded(prompts, padding_id(loaded.light)))
    with torch.no_grad():
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        # All but the last token: that one is what an answer goes on from.
        cache = (
            _decoder(loaded.model)
            .base_model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=places[:, :-1],
                use_cache=True,
            )
            .past_key_values
        )
        found = _losses(loaded.model, ids, mask, copy.deepcopy(cache), wanted)
        own = _own_answers(loaded, ids, mask, cache, max_new_tokens)
    return found, own


def _padded(prompts: Sequence[Ids], pad: int) -> tuple[Any, Any]:
    """Return ids and mask (prompts, tokens), the prompts set right: every answer begins at the same place."""
    import torch

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _decoder(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _losses(model: Any, ids: Any, mask: Any, cache: Any, wanted: Sequence[Ids]) -> list[Likelihood]:
    """Score answers that follow prompts (prompts, tokens), of which all but the last token are in the cache."""
    import torch

    longest = max(map(len, wanted))
    target = torch.full((len(wanted), longest), -1)
    for row, answer in enumerate(wanted):
        target[row, : len(answer)] = torch.tensor(list(answer))
    target = target.to(ids.device)
    keep = target >= 0
    read = torch.cat([ids[:, -1:], target[:, :-1].clamp(min=0)], dim=1)
    seen = torch.cat([mask, keep[:, :-1].long()], dim=1)
    places = mask.sum(-1, keepdim=True) - 1 + torch.arange(longest, device=ids.device)
    decoder = _decoder(model)
    hidden = decoder.base_model(
        input_ids=read, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True
    ).last_hidden_state
    logits = decoder.get_output_embeddings()(hidden[keep]).float()
    nll = torch.nn.functional.cross_entropy(logits, target[keep], reduction="none")
    sums = torch.zeros(len(wanted), device=ids.device).index_add_(0, keep.nonzero()[:, 0], nll)
    return list(zip(sums.tolist(), keep.sum(dim=1).tolist(), strict=True))


def _own_answers(loaded: Loaded, ids: Any, mask: Any, cache: Any, max_new_tokens: int) -> list[list[int]]:
    """Return the likeliest answers, each up to and with its stop token."""
    from ft_magic.backends.answering import padding_id

    stops = sorted(loaded.light.stop_ids)
    out = loaded.model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=padding_id(loaded.light),
        do_sample=False,
        repetition_penalty=1.0,  # whatever the model's generation config asks for
    )
    return [list(row) for row in out[:, ids.shape[1] :].tolist()]
