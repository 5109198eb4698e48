"""The peak of a planned step: what a plan says, as a ``Setting`` of the closed form."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ft_magic.axes import Update
from ft_magic.memory.cards import CPU, UNKNOWN
from ft_magic.memory.memory import Memory
from ft_magic.memory.optimizers import OPTIMIZERS
from ft_magic.memory.setting import (
    EVERY_LINEAR,
    NF4_DOUBLE_BITS,
    Adapter,
    Loss,
    Quantization,
    Setting,
    kind_of,
)
from ft_magic.memory.step import peak
from ft_magic.memory.trained import Size, trained_parameters
from ft_magic.models import ModelFacts
from ft_magic.models.architecture import Architecture, architecture

# TRL's chunked loss works on 256 answer tokens at a time and computes their entropy; the loss we put in its place on a
# CPU works on 128 (``backends/cross_entropy.py``).
_CHUNKED = {True: Loss("chunked", chunk_tokens=256), False: Loss("chunked", chunk_tokens=128, entropy=False)}


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


def estimate(facts: ModelFacts, work: Workload) -> Memory:
    """Return the peak memory of one training step.

    Args:
        facts: sizes of the model.
        work: what is trained on how many tokens at once.
    """
    found = peak(architecture_of(facts), _setting(facts, work), UNKNOWN if work.gpu else CPU)
    parts = dict(found.parts)
    stored = sum(parts.pop(name) for name in ("unquantized weights", "quantization constants"))
    return replace(found, parts={**parts, "weights": parts["weights"] + stored})


def architecture_of(facts: ModelFacts) -> Architecture:
    """Return the model's matrices: from its config where it was read, else from its sizes."""
    if facts.architecture is not None:
        return facts.architecture
    return architecture(
        {
            "model_type": facts.model_type,
            "hidden_size": facts.hidden_size,
            "num_hidden_layers": facts.layers,
            "num_attention_heads": facts.heads,
            "num_key_value_heads": facts.kv_heads,
            "head_dim": facts.head_dim,
            "intermediate_size": facts.intermediate_size,
            "vocab_size": facts.vocab_size,
            "tie_word_embeddings": facts.tied_embeddings,
            "max_position_embeddings": facts.max_length_tokens or 0,
        }
    )


def _setting(facts: ModelFacts, work: Workload) -> Setting:
    update, full = work.update, work.update.family == "full"
    quantized = bool(update.bits)
    layers = work.size.trainable_layers or -(-facts.layers // 4)
    return Setting(
        micro_batch=work.micro_batch_examples,
        length=work.length_tokens,
        sides=work.sides,
        adapter=None if full else _adapter(facts, work),
        quantization=_nf4(work.weight_bytes) if quantized else None,
        weight_width=work.weight_bytes,
        # The Trainer runs 16-bit training under autocast; full fine-tuning keeps fp32 weights beside it on a GPU.
        autocast_width=2 if work.weight_bytes == 2 or (work.gpu and full) else 0,
        optimizer=OPTIMIZERS["adamw_8bit" if quantized and work.gpu else "adamw_torch_fused"],
        loss=Loss("full") if work.full_logits else _CHUNKED[work.gpu],
        checkpointing="layers" if work.checkpointing else "none",
        frozen_copies=work.frozen_copies,
        twins=work.twins,
        other_weights=work.other_weights,
        accumulates=True,
        layers_trained=layers if "trainable_layers" in update.options else None,
    )


def _adapter(facts: ModelFacts, work: Workload) -> Adapter:
    kind = kind_of(work.update)
    return Adapter(
        kind=kind,
        rank=work.size.vera_r if kind == "vera" else work.size.lora_r,
        targets=EVERY_LINEAR,
        dropout=True,
        virtual_tokens=work.size.num_virtual_tokens,
        values=trained_parameters(facts, work.update, work.size),
    )


def _nf4(width: int) -> Quantization:
    """NF4 with double quantization; embeddings, head and norms stay as they are beside it."""
    return Quantization(NF4_DOUBLE_BITS, rest_width=width, norm_width=width)
