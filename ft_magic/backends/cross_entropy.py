"""The loss of supervised training without its logits: output layer, softmax and gradient, a few rows at a time.

TRL's chunked loss computes the output layer for whole chunks of 256 tokens, and a second time in the backward pass.
Here only labelled tokens are computed, and the gradient of each piece is taken while its logits are there
(Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989, section 3.2): two products a token instead of three.
Imported in heavy processes alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from trl.trainer import sft_trainer

from ft_magic.backends.rows import IGNORED

# Rows of logits alive at once. 128 rows of 49,152 are 25 MB, which a large cache still holds; products of 64 rows are
# a tenth slower here, those of 256 no faster.
ROWS = 128
_trl = getattr(sft_trainer, "_chunked_cross_entropy_loss", None)


class _Summed(torch.autograd.Function):  # type: ignore[misc]  # torch gives it no type
    """Sum of the cross-entropies of rows, in nats, with what is told of them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, right guesses, entropy), each summed over rows.

        Args:
            ctx: of autograd.
            hidden: (rows, width).
            weight: (vocabulary, width).
            bias: (vocabulary,), or None.
            labels: (rows,), all of them tokens.
        """
        wanted = ctx.needs_input_grad
        grads = [
            torch.zeros_like(tensor) if tensor is not None and asked else None
            for tensor, asked in zip((hidden, weight, bias), wanted, strict=False)
        ]
        totals = hidden.new_zeros(3)
        for start in range(0, len(labels), ROWS):
            piece = slice(start, start + ROWS)
            _take(hidden[piece], weight, bias, labels[piece], totals, grads, piece)
        ctx.grads = grads
        loss, right, entropy = totals.unbind()
        ctx.mark_non_differentiable(right, entropy)
        return loss, right, entropy

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients found in the forward pass, times the loss's own."""
        return (*(None if grad is None else grad.mul_(outer[0]) for grad in ctx.grads), None)


def _take(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    totals: Tensor,
    grads: list[Tensor | None],
    piece: slice,
) -> None:
    """Add one piece's sums to ``totals`` and its gradients to ``grads``."""
    logits = hidden @ weight.t() if bias is None else torch.addmm(bias, hidden, weight.t())
    of_label = logits.gather(1, labels[:, None])
    top = logits.amax(1, keepdim=True)
    logits.sub_(top)
    shares = logits.exp()
    mass = shares.sum(1, keepdim=True)
    shares.div_(mass)
    norm = mass.log_()
    entropy = norm.sum() - torch.dot(shares.view(-1), logits.view(-1))
    loss = (norm + top - of_label).sum()
    totals += torch.stack([loss, (of_label == top).sum().to(loss.dtype), entropy])
    if not any(grad is not None for grad in grads):
        return
    shares.scatter_add_(1, labels[:, None], shares.new_full((len(labels), 1), -1.0))
    of_hidden, of_weight, of_bias = grads
    if of_hidden is not None:
        of_hidden[piece] = shares @ weight
    if of_weight is not None:
        of_weight.addmm_(shares.t(), hidden)
    if of_bias is not None:
        of_bias += shares.sum(0)


def loss_of_labels(  # noqa: PLR0913, PLR0917  TRL's own signature
    hidden_states: Tensor,
    lm_head_weight: Tensor,
    chunk_size: int,
    labels: Tensor | None = None,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    logit_scale: float = 1.0,
    final_logit_softcapping: float | None = None,
    lm_head_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, right guesses, entropy and labelled tokens, as TRL 1.14's chunked loss does.

    Scaled or capped logits, other number formats and devices are left to TRL.
    """
    plain = logit_scale == 1.0 and final_logit_softcapping is None and labels is not None
    narrow = hidden_states.dtype != torch.float32 or lm_head_weight.dtype != torch.float32
    if not plain or narrow or shift_labels is not None or hidden_states.device.type != "cpu":
        found: tuple[Tensor, Tensor, Tensor, Tensor] = _trl(  # type: ignore[misc]  # there, or nothing was replaced
            hidden_states, lm_head_weight, chunk_size, labels, shift_labels, num_items_in_batch,
            logit_scale, final_logit_softcapping, lm_head_bias,
        )  # fmt: skip
        return found
    assert labels is not None
    following = labels[:, 1:]
    kept = following != IGNORED
    hidden = hidden_states[:, :-1][kept]
    loss, right, entropy = _Summed.apply(hidden, lm_head_weight, lm_head_bias, following[kept])
    count = kept.sum()
    return (
        loss / (count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch),
        right,
        entropy,
        count,
    )


def use_own() -> bool:
    """Put ``loss_of_labels`` in the place of TRL's chunked loss; False where this TRL has no such function."""
    if _trl is None or list(inspect.signature(_trl).parameters) != list(
        inspect.signature(loss_of_labels).parameters
    ):
        return False
    sft_trainer._chunked_cross_entropy_loss = loss_of_labels  # noqa: SLF001  looked up there at each call
    return True
