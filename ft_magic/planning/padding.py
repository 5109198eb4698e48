"""What a micro-batch size costs in computing: padding wasted against passes started.

Rows of a micro-batch are padded to its longest row, so large ones waste tokens on uneven data; each pass through the
model costs something however short its rows, so small ones waste there. The output layer sees trained tokens alone
(``backends/cross_entropy.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ft_magic.memory import parameters
from ft_magic.models import ModelFacts
from ft_magic.planning.plans import Lengths

_WEIGHT_FLOPS = 4  # a weight and token where weights are frozen: forward and input gradient
# What starting the operations of a layer costs, as arithmetic forgone: a pass of 8 tokens through the 135M model
# takes as long as 25 tokens more do in a long one, 0.1 s of one core (``python bench/curves.py --only length``).
_LAYER_FLOPS = 350e6


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
    trained = sum(lengths.trained) / max(1, len(lengths.trained))
    computed = _WEIGHT_FLOPS * size * (body * longest + head * trained)
    return (batch / size) * (computed + _LAYER_FLOPS * facts.layers)
