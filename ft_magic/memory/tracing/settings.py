"""What is traced, and what a trace answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ft_magic.memory.cards import UNKNOWN, Card

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter.

    Attributes:
        kind: PEFT's configuration class, such as ``LoraConfig``.
        options: its arguments.
        upcast: whether PEFT holds the adapter in fp32 (its default).
    """

    kind: str = "LoraConfig"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    upcast: bool = True


@dataclass(frozen=True)
class Quantized:
    """A base held in bitsandbytes' NF4.

    Attributes:
        double: whether the scales are quantized too.
        rest: what becomes of embeddings, head and norms: ``stored`` as loaded, ``float32`` by PEFT's
            ``prepare_model_for_kbit_training``, ``norms`` = norms alone in fp32 (TRL before 0.20).
    """

    double: bool = True
    rest: Literal["stored", "float32", "norms"] = "float32"


@dataclass(frozen=True)
class TraceSettings:
    """One training step.

    Attributes:
        method: ``sft``, ``reward`` (pairs, a score head), ``dpo`` (pairs) or ``grpo`` (answers with advantages).
        micro_batch: examples (pairs count once) a forward pass takes.
        length_tokens: padded length of a sequence.
        prompt_tokens: how many of them are the prompt; read by ``grpo``.
        weights: type the weights are held in.
        autocast: type that matrix products run in under autocast; None without autocast.
        adapter: PEFT adapter; None where the model's own weights train.
        quantized: how the base is quantized; None where it is not.
        optimizer: a row of ``optimizers.OPTIMIZERS``.
        checkpointing: how activations are recomputed; None where all are kept.
        attention: which attention the model was asked for.
        repeats_keys: whether keys and values are repeated for every query head before the kernel runs
            (transformers without ``enable_gqa``).
        padded: whether the batch holds padding, so that attention gets an explicit mask.
        loss: ``installed`` = the installed transformers' own; ``4.46`` and ``4.45`` = as those versions wrote it;
            ``uncast`` = as they wrote it for GPT-2's relatives, in the logits' own type.
        keeps_output: whether the model's output is still referenced during the backward pass (hand-written loops).
        stale: whether the last step's loss and output live on into the next forward pass.
        reference: whether a frozen copy of the model is held (DPO of all weights).
        accumulation: micro-batches an optimizer step adds up.
        steps: optimizer steps; the optimizer's state exists from the second one's start.
        card: device.
        depth: ``full`` traces every layer; ``short`` traces few and extrapolates; ``auto`` chooses by depth.
    """

    method: str = "sft"
    micro_batch: int = 1
    length_tokens: int = 512
    prompt_tokens: int = 0
    weights: Dtype = "bfloat16"
    autocast: Dtype | None = None
    adapter: Adapter | None = None
    quantized: Quantized | None = None
    optimizer: str = "adamw"
    checkpointing: Literal["reentrant", "non_reentrant"] | None = None
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    repeats_keys: bool = False
    padded: bool = False
    loss: Literal["installed", "4.46", "4.45", "uncast"] = "installed"
    keeps_output: bool = False
    stale: bool = False
    reference: bool = False
    accumulation: int = 1
    steps: int = 2
    card: Card = UNKNOWN
    depth: Literal["auto", "full", "short"] = "auto"


@dataclass(frozen=True)
class Instant:
    """The largest moment of one phase: ``load``, ``resident``, ``forward``, ``backward`` or ``optimizer``.

    Attributes:
        name: phase.
        allocated_bytes: bytes in tensors at that moment.
        parts: the same by part.
    """

    name: str
    allocated_bytes: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Traced:
    """What a traced step needs.

    Attributes:
        allocated_bytes: most bytes in tensors at once (``torch.cuda.max_memory_allocated``).
        reserved_bytes: most bytes the caching allocator holds (``max_memory_reserved``).
        parts: the allocated bytes by part.
        instant: phase of the peak.
        timeline: the largest moment of each phase of the last step.
        trained_parameters: weights that train.
        layers_traced: decoder layers that really ran.
        seconds: time the trace took.
    """

    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]
    instant: str
    timeline: tuple[Instant, ...] = field(default=())
    trained_parameters: int = 0
    layers_traced: int = 0
    seconds: float = 0.0
