"""Stand-ins for cross-entropy kernels that hold no second copy of the logits, or none at all. Worker only.

Sources: Liger-Kernel's ``ops/fused_linear_cross_entropy.py``; fms-acceleration's and Unsloth's
``cross_entropy_loss.py``.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

_HALF_BYTES = 2  # Liger's kernel writes the gradients over 16-bit logits


class InPlace(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Cross-entropy that keeps the logits and writes their gradient over them."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits of any shape; one fp32 loss and log-sum a row exist beside them."""
        rows = logits.new_empty(logits.shape[:-1], dtype=torch.float32)
        sums = torch.empty_like(rows)
        ctx.save_for_backward(logits, sums)
        return rows.mean()

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        """Return the logits' own memory."""
        return ctx.saved_tensors[0].detach()


class FusedLinear(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """Liger's output layer and loss in one: all gradients are made in the forward pass, chunk by chunk.

    A chunk has about ``tokens * hidden / vocabulary`` rows, rounded up to a power of two, so that its logits are about
    as large as the hidden states.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, given: int | None, logit_bytes: int
    ) -> torch.Tensor:
        """Return the loss of hidden states ``(tokens, width)``; see ``fuse_head`` for the others."""
        count, width = hidden.shape
        chunks = -(-weight.shape[0] // width)
        size = given or 1 << (-(-count // chunks) - 1).bit_length()
        rows = hidden.new_empty(count, dtype=torch.float32)
        of_hidden = torch.zeros_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, min(count, 2 * size), size):  # further chunks are like the second
            part = hidden[start : start + size]
            logits = part @ weight.t().to(part.dtype)
            more = logits.new_empty(*logits.shape, logit_bytes - logits.element_size(), dtype=torch.uint8)
            of_hidden[start : start + size] = logits @ weight.to(part.dtype)
            if of_weight is not None:
                of_weight += logits.t() @ part
            del more
        ctx.gradients = of_hidden, of_weight
        return rows.sum()

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> Any:
        """Return the gradients that exist already."""
        return *ctx.gradients, None, None


def fuse_head(causal: Any, rows: int | None = None, logit_bytes: int = _HALF_BYTES) -> None:
    """Let a causal model compute its loss without logits, as ``apply_liger_kernel_to_*`` does.

    Args:
        causal: the model.
        rows: tokens of a chunk; by default Liger's.
        logit_bytes: what a chunk holds for each logit.
    """

    def forward(self: Any, labels: Any = None, **inputs: Any) -> CausalLMOutputWithPast:
        del labels  # ids count, not which
        hidden = self.base_model(**inputs).last_hidden_state
        weight = self.get_output_embeddings().weight
        loss = FusedLinear.apply(hidden.reshape(-1, hidden.shape[-1]), weight, rows, logit_bytes)
        return CausalLMOutputWithPast(loss=loss)

    causal.forward = MethodType(forward, causal)
