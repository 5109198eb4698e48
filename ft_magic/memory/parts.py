"""Peak memory of one training step, by part, in closed form from the model's configuration.

The formulas follow tensors, not fitted constants: what a Llama-type block keeps for the backward pass, what the
optimizer holds, what the loss makes in passing. Validity: decoder models with dense blocks; other architectures
get the same formulas on their own sizes and are marked approximate by the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ft_magic.axes import Update
from ft_magic.memory.trained import Size, parameters, trained_parameters
from ft_magic.models import ModelFacts

# NF4 with double quantization: 4 bits + an 8-bit scale per 64 weights + an fp32 scale per 256 scales.
_NF4_BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
# TRL's chunked loss works on 256 answer tokens at a time and keeps fp32 logits, log-probabilities and a gradient.
_LOSS_CHUNK_TOKENS = 256
_LOSS_BYTES_PER_LOGIT = 12
# A Python process with torch, transformers, trl and peft imported (measured: 0.75 GB) or a CUDA context.
_RUNTIME_BYTES_CPU = 800_000_000
_RUNTIME_BYTES_GPU = 500_000_000


@dataclass(frozen=True)
class Workload:
    """What decides the memory of a step besides the model.

    Attributes:
        update: row of the update axis.
        micro_batch_examples: sequences in one forward pass (pairs count twice).
        length_tokens: padded length of the longest sequence.
        weight_bytes: bytes of one unquantized weight (4 = fp32, 2 = bf16).
        size: how large the update is.
        sides: sequences an example or answer sends through the model at once: 2 for pairs.
        twins: further models, or adapters, that train beside the policy (PPO's value function).
        frozen_copies: further models of the same size that are held and not trained (a reference).
        other_weights: weights of further models of other sizes (a teacher).
        checkpointing: whether activations are recomputed.
        full_logits: whether the loss holds the logits of every token (DPO) or of chunks of answers (SFT).
        gpu: whether the step runs on a GPU.
    """

    update: Update
    micro_batch_examples: int
    length_tokens: int
    weight_bytes: int = 4
    size: Size = field(default_factory=Size)
    sides: int = 1
    twins: int = 0
    frozen_copies: int = 0
    other_weights: int = 0
    checkpointing: bool = False
    full_logits: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Memory:
    """Peak memory of a step in bytes, by part; ``total_bytes`` is what the device must have free."""

    parts: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        """Sum of all parts, in bytes."""
        return sum(self.parts.values())


def estimate(facts: ModelFacts, work: Workload) -> Memory:
    """Return the peak memory of one training step.

    Args:
        facts: sizes of the model.
        work: what is trained on how many tokens at once.
    """
    trained = (1 + work.twins) * trained_parameters(facts, work.update, work.size)
    adapter = trained if work.update.family == "adapter" else 0
    trained_bytes = 4 if adapter else work.weight_bytes
    copies = work.frozen_copies + (0 if adapter else work.twins)
    hump = _logits_bytes(facts, work)
    parts = {
        "weights": _weights_bytes(facts, work),
        "adapter": 4 * adapter,
        "other models": (copies * parameters(facts) + work.other_weights) * work.weight_bytes,
        "gradients": trained_bytes * trained,
        "optimizer": 2 * trained_bytes * trained,
        "activations": _activation_bytes(facts, work),
        "logits and loss": hump,
        "workspace": _workspace_bytes(facts, work),
        "runtime": _RUNTIME_BYTES_GPU if work.gpu else _RUNTIME_BYTES_CPU,
    }
    return Memory({name: int(size) for name, size in parts.items()})


def _weights_bytes(facts: ModelFacts, work: Workload) -> float:
    if not work.update.bits:
        return float(parameters(facts) * work.weight_bytes)
    # bitsandbytes leaves embeddings, head and norms unquantized; TRL trains them in 16 bit beside NF4 weights.
    embedding = facts.vocab_size * facts.hidden_size * (1 if facts.tied_embeddings else 2)
    return (parameters(facts) - embedding) * _NF4_BYTES_PER_WEIGHT + embedding * work.weight_bytes


def _activation_bytes(facts: ModelFacts, work: Workload) -> float:
    tokens = work.micro_batch_examples * work.sides * work.length_tokens
    per_layer = _bytes_per_token_and_layer(facts, work)
    if not work.checkpointing:
        return tokens * facts.layers * per_layer
    store = work.weight_bytes * facts.hidden_size
    # One layer is recomputed at a time; its backward needs about 1.6 times what its forward keeps (traced).
    return tokens * (facts.layers * store + 1.6 * per_layer)


def _bytes_per_token_and_layer(facts: ModelFacts, work: Workload) -> float:
    """Bytes a Llama-type block keeps per token for the backward pass (traced, 16-bit closed forms)."""
    hidden, inner, heads = facts.hidden_size, facts.intermediate_size, facts.heads
    if work.update.family == "full":
        sixteen_bit = 24 * hidden + 8 * inner + 4 * heads + 8
    else:
        sixteen_bit = 28 * hidden + 8 * inner + 14 * work.size.lora_r + 4 * heads + 8
    return sixteen_bit * work.weight_bytes / 2


def _logits_bytes(facts: ModelFacts, work: Workload) -> float:
    tokens = work.micro_batch_examples * work.sides * work.length_tokens
    if not work.full_logits:
        tokens = min(tokens, _LOSS_CHUNK_TOKENS)
    return tokens * facts.vocab_size * _LOSS_BYTES_PER_LOGIT


def _workspace_bytes(facts: ModelFacts, work: Workload) -> float:
    """Largest dequantized matrix (quantized base), or the copy AdamW makes of the trained weights."""
    largest = facts.hidden_size * max(facts.intermediate_size, facts.hidden_size)
    return largest * work.weight_bytes if work.update.bits else 16_000_000.0
