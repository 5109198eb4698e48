"""What a micro-batch size costs in computing: padding wasted against loss chunks started.

Rows of a micro-batch are padded to its longest row, so large ones waste tokens on uneven data; TRL's loss computes
the output layer for the trained tokens rounded up to whole chunks, so small ones waste there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ft_magic.memory import parameters
from ft_magic.models import ModelFacts
from ft_magic.planning.plans import Lengths

LOSS_CHUNK_TOKENS = 256  # TRL's chunk of trained tokens (trl 1.14)
# FLOPs a weight and token with frozen weights: forward and input gradient; the head's forward is computed twice.
_BODY_FLOPS, _HEAD_FLOPS = 4, 6


def expected_longest_tokens(lengths: Sequence[int], size: int) -> float:
    """Return the mean length of the longest of ``size`` rows drawn at random.

    Of n rows in order of length, the i-th is the longest drawn with probability (i/n)^size - ((i-1)/n)^size.
    """
    ordered, count = sorted(lengths), len(lengths)
    return sum(
        length * ((i / count) ** size - ((i - 1) / count) ** size)
        for i, length in enumerate(ordered, start=1)
    )


def step_flops(facts: ModelFacts, lengths: Lengths, size: int, batch: int, max_length_tokens: int) -> float:
    """Return roughly what one optimizer step computes when the batch is split into micro-batches of ``size``.

    Args:
        facts: sizes of the model.
        lengths: tokens and trained tokens of the rows.
        size: examples in a micro-batch.
        batch: examples in a step.
        max_length_tokens: where longer rows are cut.
    """
    head = facts.vocab_size * facts.hidden_size
    body = parameters(facts) - head * (1 if facts.tied_embeddings else 2)
    longest = expected_longest_tokens([min(length, max_length_tokens) for length in lengths.tokens], size)
    trained = size * sum(lengths.trained) / max(1, len(lengths.trained))
    chunks = math.ceil(trained / LOSS_CHUNK_TOKENS) * LOSS_CHUNK_TOKENS
    return (batch / size) * (_BODY_FLOPS * body * size * longest + _HEAD_FLOPS * head * chunks)
