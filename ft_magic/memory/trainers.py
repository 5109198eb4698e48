"""Whose code trains: the kernels and losses of TRL, Liger and Unsloth, as the installed versions have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_magic.axes import Method

# Whose code trains. Unsloth's kernels are one function each for norms, rotary positions, gates and LoRA, its loss works
# in chunks of the hidden states, and its own checkpointing keeps the stored inputs in host memory
# (unsloth/models/llama.py, unsloth_zoo/gradient_checkpointing.py). Liger (``use_liger_kernel``) fuses norms, gates and
# the loss.
BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "trl": {},
    "liger": {"fused_norms": True, "fused_mlp": True},
    "unsloth": {"fused_norms": True, "fused_mlp": True, "fused_lora": True},
}
_BACKEND_LOSS = {"liger": "fused", "unsloth": "budgeted"}


def reference_of(method: Method, *, full: bool) -> str:
    """Return what a method's reference costs, see ``Setting.reference``."""
    if method.reference != "live":
        return method.reference
    return "copy" if full else "adapter"


# Whose TRL trainer takes log-probabilities of the answers by its Triton kernel on a GPU (trl 1.14).
_BY_KERNEL = ("dpo", "ipo", "kto", "grpo", "rloo", "online_dpo", "spin")


def usual_loss(method: Method, backend: str) -> str:
    """Return the kind of loss a backend computes for a method."""
    if method.name == "reward":
        return "none"
    if backend in _BACKEND_LOSS and method.feed in ("labels", "whole_pairs"):
        return _BACKEND_LOSS[backend]
    if backend == "liger" and method.name in _BY_KERNEL:
        return "chunked"
    if method.name in _BY_KERNEL:
        return "log_probs_kernel"
    if method.generates:
        return "log_probs"
    return "chunked" if method.feed in ("labels", "whole_pairs") else "full"
