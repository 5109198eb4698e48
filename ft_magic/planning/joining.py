"""Rows of uneven length without padding: several joined into one sequence, kept apart by the attention kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ft_magic.axes import Method, Update
from ft_magic.errors import SpecError
from ft_magic.hardware import BF16_CAPABILITY
from ft_magic.planning.fit import Choice
from ft_magic.planning.padding import expected_longest_tokens
from ft_magic.planning.plans import Situation
from ft_magic.spec import Spec

# Below this share of padding, leaving it out gains less than its bookkeeping costs (position ids, cu_seqlens).
_WORTH_IT = 0.05
# Joined rows must not read each other: TRL vouches for that with FlashAttention's kernels for sequences of varying
# length alone (trl 1.14, sft_trainer.FLASH_ATTENTION_VARIANTS), which need 16-bit numbers and compute capability 8.0.
# With transformers' sdpa a Llama kept them apart here too (same losses to 1e-6), by a mask that grows with the square.
_VOUCHED = "TRL vouches for no other attention to keep joined examples from seeing each other"
_INSTALL = "pip install flash-attn"


@dataclass(frozen=True)
class Joined:
    """How a packed run counts.

    Attributes:
        length_tokens: of a packed sequence.
        sequences: packed sequences in an optimizer step; together they hold about the batch's examples.
    """

    length_tokens: int
    sequences: int


def hindrance(situation: Situation, update: Update, precision: str) -> str:
    """Return why rows cannot be joined here, or an empty string."""
    if update.virtual_tokens:
        return f"update '{update.name}' puts its learned tokens in front of each row"
    if not situation.hardware.gpus:
        return f"it needs FlashAttention, which CPUs do not have: {_VOUCHED}"
    if min(gpu.compute_capability for gpu in situation.hardware.gpus) < BF16_CAPABILITY:
        return "FlashAttention needs a GPU of compute capability 8.0 (A100, L4, RTX 30) or later"
    if precision == "fp32":
        return "FlashAttention computes in 16 bit, and precision is fp32"
    if not situation.flash_attention_installed:
        return f"FlashAttention is not installed ({_INSTALL}): {_VOUCHED}"
    return ""


def joined(spec: Spec, situation: Situation, batch: int, longest: int, cap: int) -> Joined:
    """Return the length and number of packed sequences that hold about the batch's examples.

    Args:
        spec: what was asked.
        situation: lengths of the rows.
        batch: examples a step.
        longest: longest row as it is fed, in tokens.
        cap: longest sequence taken by default, in tokens.
    """
    lengths = [min(length, cap) for length in situation.lengths.tokens]
    tokens = batch * sum(lengths) / max(1, len(lengths))
    length = spec.max_length or min(cap, max(longest, math.ceil(tokens / 8) * 8))
    return Joined(length, max(1, round(tokens / length)))


def packing(spec: Spec, method: Method, situation: Situation, update: Update, precision: str) -> Choice[bool]:
    """Decide on packing; it is taken only when asked for, because it changes which examples share a step.

    Raises:
        SpecError: it was asked for and cannot be.
    """
    if "packing" not in method.options:
        return Choice(value=False, reason="")
    why = hindrance(situation, update, precision)
    if spec.packing and why:
        raise SpecError(f"packing cannot be done: {why}.", "Leave packing out.")
    if spec.packing:
        return Choice(value=True, reason="asked for")
    return Choice(value=False, reason=why or "only when asked for: it changes which examples share a step")


def padding_free(
    method: Method,
    situation: Situation,
    update: Update,
    precision: str,
    backend: str,
    lengths: Sequence[int],
    micro: int,
) -> Choice[bool]:
    """Decide whether a micro-batch goes through the model as one row of tokens, without padding.

    It learns the same as with padding; only the time differs.

    Args:
        method: row of the method axis.
        situation: machine.
        update: row of the update axis.
        precision: number format of training.
        backend: engine that trains.
        lengths: of the rows as they are fed, in tokens.
        micro: examples of a micro-batch.
    """
    if "packing" not in method.options or not situation.hardware.gpus:
        return Choice(value=False, reason="")
    if backend != "trl":
        return Choice(value=False, reason=f"padding is left to backend {backend}")
    waste = padding_share(lengths, micro)
    if waste < _WORTH_IT:
        return Choice(value=False, reason=f"{waste:.0%} of a micro-batch would be padding: not worth it")
    told = f"{waste:.0%} of a micro-batch would be padding"
    if why := hindrance(situation, update, precision):
        return Choice(value=False, reason=f"{told}, but {why}")
    return Choice(value=True, reason=f"{told}; FlashAttention keeps the rows apart")


def padding_share(lengths: Sequence[int], micro: int) -> float:
    """Return which share of the tokens of a micro-batch drawn at random is padding."""
    longest = expected_longest_tokens(lengths, micro)
    return 1 - sum(lengths) / len(lengths) / longest if lengths and longest else 0.0
