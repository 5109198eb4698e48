"""How likely a model finds given answers: negative log-likelihoods of held-out rows. Runs in the warm process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft_magic.backends import rows
from ft_magic.progress import Progress

_BATCH_ROWS = 8
Likelihood = tuple[float, int]  # summed negative log-likelihood in nats, trained tokens


def labelled(prompt: Sequence[int], answer: Sequence[int]) -> dict[str, list[int]]:
    """Return a prompt and its answer as ids and labels: only the answer is scored."""
    return {
        "input_ids": [*prompt, *answer],
        "labels": [rows.IGNORED] * len(prompt) + list(answer),
    }


def losses(
    model: Any, found: Sequence[Mapping[str, Sequence[int]]], progress: Progress, what: str
) -> list[Likelihood]:
    """Return (summed negative log-likelihood, trained tokens) of each row, in order.

    Args:
        model: causal language model, with its adapter on or off.
        found: rows with ``input_ids`` and ``labels``.
        progress: told how far it is.
        what: for the progress line.
    """
    import torch

    result: list[Likelihood] = [(0.0, 0)] * len(found)
    order = sorted(range(len(found)), key=lambda i: len(found[i]["input_ids"]))
    for start in range(0, len(order), _BATCH_ROWS):
        progress(what, start, len(order))
        batch = order[start : start + _BATCH_ROWS]
        width = max(len(found[i]["input_ids"]) for i in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        labels = torch.full((len(batch), width), rows.IGNORED)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for line, i in enumerate(batch):
            length = len(found[i]["input_ids"])
            ids[line, :length] = torch.tensor(list(found[i]["input_ids"]))
            labels[line, :length] = torch.tensor(list(found[i]["labels"]))
            mask[line, :length] = 1
        for i, pair in zip(batch, _batch_losses(model, ids, mask, labels), strict=True):
            result[i] = pair
    return result


def mean_loss(found: Sequence[Likelihood]) -> float | None:
    """Return the mean over all trained tokens, in nats a token; None where there are none."""
    tokens = sum(count for _, count in found)
    return sum(loss for loss, _ in found) / tokens if tokens else None


def answer_logits(model: Any, ids: Any, mask: Any, keep: Any) -> Any:
    """Return logits at the places before kept tokens, (kept, vocabulary) in float32.

    Args:
        model: causal language model.
        ids: token ids (batch, tokens).
        mask: 1 for real tokens (batch, tokens).
        keep: whether the token after each place is scored (batch, tokens - 1).
    """
    import torch

    return logits_at(model, ids, mask, torch.nn.functional.pad(keep, (0, 1)))


def logits_at(model: Any, ids: Any, mask: Any, places: Any) -> Any:
    """Return logits at some places, (places, vocabulary) in float32, in their order; made nowhere else.

    Args:
        model: causal language model.
        ids: token ids (batch, tokens).
        mask: 1 for real tokens (batch, tokens).
        places: whether logits are wanted after each token (batch, tokens).
    """
    device = model.device
    ids, mask, places = ids.to(device), mask.to(device), places.to(device)
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        # Virtual tokens are put in front by PEFT's own forward; layers called directly would not see them.
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[:, -ids.shape[1] :][places].float()  # those of the virtual tokens stand in front
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    return inner.get_output_embeddings()(hidden[places]).float()


def _batch_losses(model: Any, ids: Any, mask: Any, labels: Any) -> list[Likelihood]:
    """Score one padded batch; arguments as ``answer_logits``, labels with ``IGNORED`` where none is scored."""
    import torch

    with torch.no_grad():
        target = labels[:, 1:].to(model.device)
        keep = target != rows.IGNORED
        logits = answer_logits(model, ids, mask, keep)
        nll = torch.nn.functional.cross_entropy(logits, target[keep], reduction="none")
        line = keep.nonzero()[:, 0]
        sums = torch.zeros(len(ids), device=target.device).index_add_(0, line, nll)
        counts = keep.sum(dim=1)
    return list(zip(sums.tolist(), counts.tolist(), strict=True))
