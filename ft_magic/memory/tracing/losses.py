"""The losses as the installed libraries compute them. Imported in the worker alone.

Each takes the model, a batch and the settings and returns ``(loss, output)``; the caller decides how long the output
lives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional
from trl.trainer.utils import selective_log_softmax

from ft_magic.memory.tracing.settings import TraceSettings

_BETA = 0.1  # its value changes no size


@dataclass(frozen=True)
class Batch:
    """One micro-batch: ``ids`` and ``mask`` of shape (sequences, tokens), ``reference`` a frozen model or None."""

    ids: torch.Tensor
    mask: torch.Tensor
    reference: Any = None


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


def _language(model: Any, batch: Batch, settings: TraceSettings) -> tuple[torch.Tensor, Any]:
    """Causal language model loss."""
    if settings.loss == "installed":
        output = model(**_inputs(batch), labels=batch.ids)
        return output.loss, output
    hidden: list[
        torch.Tensor
    ] = []  # the model's forward computed the loss itself, with its last states alive
    hook = model.get_output_embeddings().register_forward_hook(lambda _, given, __: hidden.append(given[0]))
    output = model(**_inputs(batch))
    hook.remove()
    return _shifted(output, batch, settings), output


def _shifted(output: Any, batch: Batch, settings: TraceSettings) -> torch.Tensor:
    """Return the loss of transformers before 4.49: a shifted, contiguous copy of the logits, mostly in fp32.

    Up to 4.45 the output held the fp32 logits; from 4.46 it held those of the model's own type beside them; GPT-2's
    relatives cast nothing.
    """
    values = output.logits if settings.loss == "uncast" else output.logits.float()
    if settings.loss == "4.45":
        output.logits = values
    shifted = values[..., :-1, :].contiguous()
    labels = batch.ids[..., 1:].contiguous()
    return functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), labels.view(-1))


def _answers(model: Any, batch: Batch, kept: int | None = None) -> tuple[torch.Tensor, Any]:
    """Return the log-probability of each token, of shape (sequences, tokens), and the model's output."""
    extra = {} if kept is None else {"logits_to_keep": kept + 1}
    output = model(**_inputs(batch), **extra)
    logits = output.logits[:, :-1]
    return selective_log_softmax(logits, batch.ids[:, -logits.shape[1] :]), output


def _preference(model: Any, batch: Batch, _: TraceSettings) -> tuple[torch.Tensor, Any]:
    """DPO: chosen and rejected in one batch; the reference is a frozen copy, or the model without its adapter."""
    reference = model if batch.reference is None else batch.reference
    bare = model.disable_adapter() if batch.reference is None else contextlib.nullcontext()
    with torch.no_grad(), bare:
        base = _answers(reference, batch)[0].sum(-1)
    rows, output = _answers(model, batch)
    gain = rows.sum(-1) - base
    chosen, rejected = gain.chunk(2)
    return -functional.logsigmoid(_BETA * (chosen - rejected)).mean(), output


def _reward(model: Any, batch: Batch, _: TraceSettings) -> tuple[torch.Tensor, Any]:
    """Bradley-Terry loss of pairs."""
    output = model(**_inputs(batch))
    chosen, rejected = output.logits.squeeze(-1).chunk(2)
    return -functional.logsigmoid(chosen - rejected).mean(), output


def _policy(model: Any, batch: Batch, settings: TraceSettings) -> tuple[torch.Tensor, Any]:
    """GRPO: clipped policy gradient over the answer's tokens; old log-probabilities come first, without gradients."""
    kept = batch.ids.shape[1] - settings.prompt_tokens
    with torch.no_grad():
        old = _answers(model, batch, kept)[0]
    rows, output = _answers(model, batch, kept)
    ratio = torch.exp(rows - old)
    advantage = torch.ones(rows.shape[0], 1, device=rows.device)
    loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return loss.mean(), output


LOSSES: Mapping[str, Callable[[Any, Batch, TraceSettings], tuple[torch.Tensor, Any]]] = MappingProxyType(
    {"sft": _language, "cpt": _language, "dpo": _preference, "reward": _reward, "grpo": _policy}
)
PAIRS = ("dpo", "reward")  # methods whose examples are two sequences
