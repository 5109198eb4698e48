"""What decides the memory of a training step besides the model's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ft_magic.axes import Update

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERY_LINEAR = (*ATTENTION, *MLP)


@dataclass(frozen=True)
class Adapter:
    """Small trained matrices beside frozen weights.

    Attributes:
        kind: ``lora``, ``dora``, ``ia3``, ``vera``, ``prompt``, ``prefix``, ``ptuning``, ``bottleneck``, ``norms``,
            ``scaled`` (a trained scale and bias on every linear layer, and the norms: LLaMA-Adapter v2).
        rank: rank of LoRA matrices.
        targets: names of the linear layers with LoRA.
        width: bytes of an adapter weight; PEFT keeps adapters in fp32 (``autocast_adapter_dtype``).
        dropout: whether LoRA's input passes a dropout, which keeps a mask of a byte.
        head: whether the output layer has LoRA too.
        virtual_tokens: tokens of prompt, prefix and p-tuning.
        values: trained values where the caller counted them; None = counted here.
        sets: adapters that exist besides the trained one (a reference copy).
        saved: layers trained whole beside it (PEFT's ``modules_to_save``): ``embed_tokens``, ``lm_head``.
        options: further arguments of PEFT's configuration, where they are known; the tracer passes them on.
    """

    kind: str = "lora"
    rank: int = 16
    targets: tuple[str, ...] = EVERY_LINEAR
    width: int = 4
    dropout: bool = False
    head: bool = False
    virtual_tokens: int = 0
    values: int | None = None
    sets: int = 0
    saved: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def aims_at(self, name: str) -> bool:
        """Return whether a linear layer is among the targets; a fused one is where any of its parts is."""
        return name in self.targets or any(part in self.targets for part in _FUSED.get(name, ()))


# Matrices that some families hold as one.
_FUSED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
)
# PEFT class -> how its adapter meets the activations.
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "LoraConfig": "lora",
        "ft_magic.backends.pissa:PissaConfig": "lora",
        "VeraConfig": "vera",
        "IA3Config": "ia3",
        "PromptTuningConfig": "prompt",
        "PrefixTuningConfig": "prefix",
        "PromptEncoderConfig": "ptuning",
        "ft_magic.backends.bottleneck:BottleneckConfig": "bottleneck",
    }
)


def kind_of(update: Update) -> str:
    """Return the ``Adapter.kind`` of an update that trains an adapter."""
    return "dora" if update.settings.get("use_dora") else _KINDS[update.peft]


@dataclass(frozen=True)
class Quantization:
    """How frozen linear layers are stored.

    Attributes:
        bits: bits of a weight with its constants.
        weight_bits: bits of a weight without them.
        head: whether the output layer is quantized too.
        targets_only: whether only layers with LoRA are quantized (torchao in torchtune).
        rest_width: bytes of an embedding or head weight; 4 after ``prepare_model_for_kbit_training``.
        norm_width: bytes of a norm weight.
        keeps_width: whether the result has the width of the input (bitsandbytes) or the compute width.
        keeps_input: whether each product keeps its input for the backward pass, as bitsandbytes before 0.43 did.
    """

    bits: float
    weight_bits: float = 4.0
    head: bool = False
    targets_only: bool = False
    rest_width: int = 2
    norm_width: int = 2
    keeps_width: bool = True
    keeps_input: bool = False


# NF4: an fp32 scale per 64 weights; double: an 8-bit scale per 64 and an fp32 one per 256 scales (QLoRA paper).
NF4_BITS = 4 + 32 / 64
NF4_DOUBLE_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# LLM.int8: an fp32 scale an output row, next to nothing (bitsandbytes/autograd/_functions.py).
INT8_BITS = 8.0
# GPTQ: a 16-bit scale and a 4-bit zero per group of 128; the order of groups is 4 bytes an input row.
GPTQ_BITS = 4 + (16 + 4) / 128


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer holds and needs; rows in ``memory.optimizers``.

    Attributes:
        state_bytes: bytes of all states a trained value; None = ``own_states`` times the value's own width.
        paged: whether states live in managed memory, outside PyTorch's allocator.
        copies: trained values copied for a moment in a step: 1 for torch's foreach AdamW, 0 fused.
        in_backward: whether a gradient is used as soon as it exists.
        factored: whether a matrix' state is a row and a column (Adafactor).
        own_states: states of the value's own width.
        narrow_states: how many more of them 16-bit values have.
        small_bytes: ``state_bytes`` of tensors too small for 8 bits; None = no such rule.
        rank: rank that gradients of matrices are projected to, 0 = whole.
        step_bytes: bytes a value of the largest tensor that a step needs for a moment.
        narrow_step_bytes: how many more of them 16-bit values need.
    """

    state_bytes: float | None = None
    paged: bool = False
    copies: float = 0.0
    in_backward: bool = False
    factored: bool = False
    own_states: float = 2.0
    narrow_states: float = 0.0
    small_bytes: float | None = None
    rank: int = 0
    step_bytes: float = 0.0
    narrow_step_bytes: float = 0.0


@dataclass(frozen=True)
class Loss:
    """How logits become a loss.

    Attributes:
        kind: ``full``, ``shifted`` (transformers 4.46 to 4.48: the fp32 copy is made contiguous again),
            ``early`` (up to 4.45: the same, without the 16-bit logits), ``inplace`` and ``inplace_early`` (a Triton
            kernel that writes the gradient over the logits), ``fused`` (no logits exist), ``chunked``,
            ``held_chunks`` (chunked, but all chunks of logits are held),
            ``uncast`` (the loss of GPT-2's relatives up to 4.48 and of remote code, on logits of their own width),
            ``log_probs`` (selected log-probabilities), ``log_probs_kernel`` (the same in TRL's Triton kernel),
            ``budgeted`` (Unsloth: chunks as large as half the free memory allows), ``none``.
        outputs_alive: whether the caller still holds the logits during the backward pass.
        chunk_tokens: tokens a chunk of ``chunked``.
        entropy: whether ``chunked`` computes the entropy of each chunk too, as TRL's supervised loss does.
        scaled: whether the logits are divided by a temperature first (GRPO in TRL before 1.0, or one that is not 1).
        budget_bytes: what a chunk of ``budgeted`` may take.
    """

    kind: str = "full"
    outputs_alive: bool = False
    chunk_tokens: int = 256
    entropy: bool = True
    scaled: bool = True
    budget_bytes: float = 4 * 2**30


# Every kind of loss; the names TRL and Unsloth have for some of them.
LOSS_KINDS = (
    "full", "shifted", "early", "uncast", "inplace", "inplace_early", "fused", "chunked", "held_chunks", "log_probs",
    "log_probs_kernel", "budgeted", "none",
)  # fmt: skip
LOSS_NAMES: Mapping[str, str] = MappingProxyType(
    {"nll": "full", "chunked_nll": "chunked", "liger": "fused", "unsloth": "budgeted"}
)


@dataclass(frozen=True)
class Setting:
    """A training step, all but the model. Widths are bytes an element, lengths tokens.

    Attributes:
        micro_batch: sequences in a forward pass.
        length: tokens of the longest, padded.
        answer_length: tokens whose logits exist; None = all.
        sides: sequences an example sends at once: 2 for pairs.
        adapter: what trains beside frozen weights; None = full fine-tuning.
        quantization: how frozen layers are stored; None = as they are.
        weight_width: width of the unquantized weights.
        autocast_width: width of autocast, 0 = off.
        optimizer: row of the optimizer.
        loss: row of the loss.
        checkpointing: ``none``, ``layers`` or ``offloaded`` (the stored inputs live in host memory).
        attention: ``flash`` (flash-attn: keys and values not repeated), ``sdpa`` (repeated), ``eager``, ``math``.
        fused_norms: whether norms and rotary positions are one kernel each (Triton).
        fused_mlp: whether the activation and its product are one kernel (Liger, Unsloth).
        fused_lora: whether a projection and its LoRA are one function that keeps its input alone (Unsloth's
            ``kernels/fast_lora.py``).
        compiled: whether torch.compile fused elementwise operations.
        frozen_copies: further frozen copies of the model.
        twins: further trained copies.
        other_weights: weights of other frozen models.
        accumulates: whether gradients live through the next forward pass.
        stale_outputs: whether the last step's logits live through the next forward pass.
        generation_batch: sequences generated at once, 0 = none.
        flash: whether the card's attention kernels include FlashAttention.
        fused_qkv: whether queries, keys and values are one product, which stays whole while its values live.
        layers_trained: how many top layers train in full; None = all, -1 = a quarter of them.
        method: row of the method axis: whose loss it is.
        reference: what a frozen reference costs: ``""`` (none), ``adapter`` (the model with its adapter switched off),
            ``copy`` (one of ``frozen_copies``), ``precomputed`` (a phase of its own before training).
        reentrant: whether checkpointing is torch's older, reentrant kind.
        masked: whether the batch holds padding, so that attention gets an explicit mask.
        repeats_keys: whether keys and values are repeated for every query head before SDPA runs, where the installed
            model would pass them as they are.
        packed_experts: whether a layer's experts are one tensor each, as in transformers from 5.0 on: bitsandbytes
            quantizes no such tensor, and LoRA's ``target_modules`` do not find it.
        lengths_vary: whether batches have many lengths, so that the allocator caches blocks of all of them.
        evaluation_batch: sequences an evaluation sends at once, 0 = none.
    """

    micro_batch: int = 1
    length: int = 1024
    answer_length: int | None = None
    sides: int = 1
    adapter: Adapter | None = field(default_factory=Adapter)
    quantization: Quantization | None = None
    weight_width: int = 2
    autocast_width: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    checkpointing: str = "none"
    attention: str = "sdpa"
    fused_norms: bool = False
    fused_mlp: bool = False
    compiled: bool = False
    frozen_copies: int = 0
    twins: int = 0
    other_weights: int = 0
    accumulates: bool = False
    stale_outputs: bool = False
    generation_batch: int = 0
    flash: bool = True
    layers_trained: int | None = None
    fused_qkv: bool = False
    method: str = "sft"
    reference: str = ""
    reentrant: bool = False
    masked: bool = False
    repeats_keys: bool = False
    evaluation_batch: int = 0
    fused_lora: bool = False
    packed_experts: bool = True
    lengths_vary: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that go through the model at once."""
        virtual = (
            self.adapter.virtual_tokens if self.adapter and self.adapter.kind in ("prompt", "ptuning") else 0
        )
        return self.micro_batch * self.sides * (self.length + virtual)

    @property
    def logit_tokens(self) -> int:
        """Tokens whose logits the loss needs."""
        if self.answer_length is None:
            return self.tokens
        return self.micro_batch * self.sides * self.answer_length

    @property
    def compute_width(self) -> int:
        """Width in which matrices multiply."""
        return self.autocast_width or self.weight_width
