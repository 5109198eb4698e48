"""The peak of a training step: the largest of its instants, never a sum of their maxima.

Everything that stays is counted once; then each instant adds what is alive at that moment only: the end of the
forward pass with the loss, the backward pass of the last and of the first layer, the optimizer, generation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ft_magic.memory.block import LayerTape
from ft_magic.memory.cards import CPU, Card
from ft_magic.memory.fragmentation import unused_bytes
from ft_magic.memory.logits import head_and_loss
from ft_magic.memory.memory import FRAGMENTATION, RUNTIME, Memory
from ft_magic.memory.resident import Resident, resident
from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tape
from ft_magic.models.architecture import Architecture, Block


@dataclass(frozen=True)
class Instant:
    """Bytes alive at one moment, besides what stays."""

    name: str
    activations: float = 0.0
    logits: float = 0.0
    gradients: float = 0.0
    workspace: float = 0.0
    cache: float = 0.0

    @property
    def total(self) -> float:
        """Sum, in bytes."""
        return self.activations + self.logits + self.gradients + self.workspace + self.cache


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs, in bytes.

    Attributes:
        store: kept from the forward to the backward pass.
        forward: most alive while its forward pass runs, without its input.
        backward: most alive while it is run again (if checkpointed) and backward, without what is stored.
        gradients: parameter gradients it leaves.
    """

    store: float
    forward: float
    backward: float
    gradients: float


def peak(model: Architecture, setting: Setting, card: Card, metric: str = "device") -> Memory:
    """Return the peak memory of a training step.

    Args:
        model: the model's matrices.
        setting: what is trained, on how many tokens, by which code.
        card: where, for its context and workspaces.
        metric: which sum ``peak_bytes`` is.
    """
    setting = replace(setting, flash=card.flash)
    stays = resident(model, setting)
    found = max(instants(model, setting, stays), key=lambda instant: instant.total)
    parts = {
        "weights": stays.weights,
        "unquantized weights": stays.unquantized,
        "quantization constants": stays.constants,
        "adapter": stays.adapter,
        "gradients": found.gradients,
        "optimizer": stays.optimizer,
        "activations": found.activations,
        "logits and loss": found.logits,
        "other models": stays.others,
        "KV cache": found.cache,
        "workspace": found.workspace + card.workspace_bytes,
        RUNTIME: float(card.context_bytes),
        FRAGMENTATION: 0.0,
    }
    if card is not CPU:
        parts[FRAGMENTATION] = _fragmentation(model, setting, card, sum(parts.values()))
    whole = {name: round(size) for name, size in parts.items()}
    return Memory(whole, found.name, metric, _BANDS[model.known and not model.experts], _notes(model))


# Over published runs with complete settings nine of ten are within the first (bench/memory.py: 7.8 %).
_BANDS = {True: (0.92, 1.08), False: (0.80, 1.20)}


def _notes(model: Architecture) -> tuple[str, ...]:
    if model.known:
        return ()
    return (f"model_type '{model.model_type}' is not in the table: counted like a Llama of its sizes",)


def _fragmentation(model: Architecture, setting: Setting, card: Card, needed: float) -> float:
    """Return what is reserved in vain: never more than the card has, as the allocator frees unused blocks first."""
    unused = unused_bytes(model, setting)
    if not card.memory_bytes:
        return unused
    return max(0.0, min(unused, card.memory_bytes - needed))


def instants(model: Architecture, setting: Setting, stays: Resident) -> list[Instant]:
    """Return every instant that can be the peak."""
    costs = [(block.layers, layer_cost(model, setting, block)) for block in model.blocks]
    hidden = setting.tokens * model.hidden * LayerTape(Tape(), model, setting).stream_width
    store = sum(layers * cost.store for layers, cost in costs)
    gradients = float(stays.trained * stays.trained_width) * (1 + setting.twins)
    waiting = gradients if setting.accumulates else 0.0
    last, first = costs[-1][1], costs[0][1]
    forward, backward, head = loss_cost(model, setting)
    logits = setting.logit_tokens * model.vocab * LayerTape(Tape(), model, setting).logits_width
    stale = logits if setting.stale_outputs else 0.0
    held = logits if setting.loss.outputs_alive else 0.0
    early = waiting or (0.0 if setting.optimizer.in_backward else head)
    whole = gradients
    if setting.optimizer.in_backward:
        whole = max(_largest(model) * stays.trained_width, head)
    found = [
        Instant("forward", store + hidden, forward + stale, waiting),
        Instant("backward", store + hidden, backward, waiting),
        Instant("backward", store - last.store + last.backward, held, early + last.gradients * (not waiting)),
        Instant("backward", first.backward, held, whole),
        Instant(
            "optimizer", 0.0, held, whole, setting.optimizer.copies * stays.trained * stays.trained_width
        ),
    ]
    if setting.checkpointing == "none":
        found.append(Instant("forward", store - last.store + last.forward, stale, waiting))
    if setting.generation_batch:
        found.append(_generation(model, setting))
    return found


def _largest(model: Architecture) -> int:
    return max(
        model.vocab * model.hidden, *(matrix.weights for block in model.blocks for matrix in block.matrices)
    )


def layer_cost(model: Architecture, setting: Setting, block: Block) -> LayerCost:
    """Run one layer on a tape, forward and backward."""
    tape = Tape()
    layer = LayerTape(tape, model, setting)
    x = tape.make(layer.tokens * model.hidden, layer.stream_width)
    size = x.size
    out = layer.layer(block, x)
    forward = tape.peak - size
    tape.drop(x)
    saved = tape.live - out.size
    if setting.checkpointing != "none":
        tape.make(x.values, x.width)  # the checkpoint holds the layer's input
        tape.mark()
    else:
        tape.drop(out)
    tape.mark()
    tape.backward(out)
    stored = {"layers": size, "offloaded": 0.0}.get(setting.checkpointing, saved)
    backward = max(tape.peak, forward if setting.checkpointing != "none" else 0.0) - tape.gradients
    return LayerCost(stored, forward, backward, tape.gradients)


def loss_cost(model: Architecture, setting: Setting) -> tuple[float, float, float]:
    """Return the peaks of loss and output layer, forward and backward, beyond the hidden states; and gradients."""
    tape = Tape()
    layer = LayerTape(tape, model, setting)
    hidden = tape.make(layer.tokens * model.hidden, layer.stream_width)
    forward, backward = head_and_loss(layer, hidden)
    return forward - hidden.size, backward - hidden.size, tape.gradients


def _generation(model: Architecture, setting: Setting) -> Instant:
    """Keys and values of every token of every sequence generated at once, and one step of logits."""
    keys = sum(block.layers for block in model.blocks) * model.kv_heads * (model.head_dim + model.value_dim)
    cache = setting.generation_batch * setting.length * keys * setting.compute_width
    return Instant("generation", 0.0, setting.generation_batch * model.vocab * 3 * 4.0, 0.0, 0.0, cache)
