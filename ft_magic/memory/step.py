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
from ft_magic.memory.phases import Instant, generation, load, scoring
from ft_magic.memory.resident import Resident, resident
from ft_magic.memory.setting import Setting
from ft_magic.memory.tape import Tape
from ft_magic.models.architecture import Architecture, Block

_FP32, _HALF = 4, 2


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
    parts, instant = _tensors(model, setting, card)
    if card is not CPU:
        parts[FRAGMENTATION] = _fragmentation(model, setting, card, sum(parts.values()))
    whole = {name: round(size) for name, size in parts.items()}
    return Memory(whole, instant, metric, _BANDS[model.known and not model.experts], _notes(model, setting))


def needed_bytes(model: Architecture, setting: Setting, card: Card) -> int:
    """Return what a card must have for a step in bytes: tensors and context, nothing the allocator could free.

    A tenth of the work of ``peak``, which replays the allocator too.
    """
    parts, _ = _tensors(model, replace(setting, flash=card.flash), card)
    return sum(round(size) for size in parts.values())


def _tensors(model: Architecture, setting: Setting, card: Card) -> tuple[dict[str, float], str]:
    """Return bytes by part at the peak, without fragmentation, and the peak's instant."""
    stays = resident(model, setting)
    setting = _with_budget(model, setting, stays, card)
    found = max(instants(model, setting, stays), key=lambda instant: instant.total)
    kept = stays.adapter + stays.optimizer
    loading = load(model, setting)
    if loading.total > found.total + kept:
        found, stays = loading, replace(stays, adapter=0.0, optimizer=0.0)
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
    return parts, found.name


# Over published runs with complete settings nine of ten are within the first (bench/memory.py: 7.8 %).
_BANDS = {True: (0.92, 1.08), False: (0.80, 1.20)}


def _notes(model: Architecture, setting: Setting) -> tuple[str, ...]:
    """Return what was guessed, and what may surprise, one sentence each."""
    said = list(model.doubts)
    if setting.quantization and setting.packed_experts and model.experts:
        said.append(
            "Experts stay in 16 bit: transformers 5 packs them, and bitsandbytes quantizes linear layers."
        )
    if any(block.mixer != "attention" for block in model.blocks):
        said.append(
            "Layers without attention are counted as their fused kernels run; without those they need more."
        )
    return tuple(said)


def _fragmentation(model: Architecture, setting: Setting, card: Card, needed: float) -> float:
    """Return what is reserved in vain: never more than the card has, as the allocator frees unused blocks first."""
    unused = unused_bytes(model, setting)
    if not card.memory_bytes:
        return unused
    return max(0.0, min(unused, card.memory_bytes - needed))


def _with_budget(model: Architecture, setting: Setting, stays: Resident, card: Card) -> Setting:
    """Return the setting with half the memory left free as the budget of Unsloth's loss; it asks for 4 GiB at most."""
    if setting.loss.kind != "budgeted" or not card.memory_bytes:
        return setting
    hidden = setting.tokens * model.hidden * setting.compute_width
    stored = hidden * model.layers if setting.checkpointing == "layers" else hidden
    taken = (
        stays.weights + stays.unquantized + stays.constants + stays.adapter + stays.optimizer + stays.others
    )
    free = card.memory_bytes - card.context_bytes - card.workspace_bytes - taken - stored
    return replace(setting, loss=replace(setting.loss, budget_bytes=min(4 * 2**30, max(free / 2, 2**26))))


def instants(model: Architecture, setting: Setting, stays: Resident) -> list[Instant]:
    """Return every instant of a step that can be the peak."""
    costs = [layer_cost(model, setting, block) for block in model.blocks]
    order = model.order or tuple(kind for kind, block in enumerate(model.blocks) for _ in range(block.layers))
    hidden = setting.tokens * model.hidden * LayerTape(Tape(), model, setting).stream_width
    unneeded = _unneeded(model, setting)
    store = sum(block.layers * cost.store for block, cost in zip(model.blocks, costs, strict=True)) - unneeded
    gradients = stays.gradients * (1 + setting.twins)
    waiting = gradients if setting.accumulates else 0.0
    forward, backward, head = loss_cost(model, setting)
    width = LayerTape(Tape(), model, setting).logits_width
    logits = float(setting.logit_tokens * model.vocab * width)
    stale = logits if setting.stale_outputs else 0.0
    held = logits if setting.loss.outputs_alive else 0.0
    whole = gradients
    if setting.optimizer.in_backward:
        whole = max(_largest(model) * stays.trained_width, head)
    early = waiting or (0.0 if setting.optimizer.in_backward else head)
    found = [
        Instant("forward", store + hidden + _cast_bytes(setting, stays), forward + stale, waiting),
        Instant("backward", store + hidden, backward, waiting),
        *_layer_instants(costs, order, held, (early, whole, -unneeded), accumulates=bool(waiting)),
        Instant("backward", 0.0, held, whole, _tied_bytes(model, setting)),
        Instant("optimizer", 0.0, held, whole, stays.step),
    ]
    last = costs[order[-1]]
    if setting.checkpointing == "none":
        found.append(Instant("forward", store - last.store + last.forward, stale, waiting))
    if setting.reference in ("adapter", "copy") and setting.sides > 1:
        found.append(scoring(setting, model, store, width, waiting))
    if setting.generation_batch:
        found.append(generation(model, setting))
    return found


def _cast_bytes(setting: Setting, stays: Resident) -> float:
    """Return the 16-bit copies of trained weights that autocast caches until the forward pass ends.

    Without checkpointing the layers keep them anyway (aten/src/ATen/autocast_mode.cpp: leaves that need a gradient).
    """
    if setting.checkpointing == "none" or not 0 < setting.autocast_width < stays.trained_width:
        return 0.0
    return float(stays.trained * setting.autocast_width)


def _tied_bytes(model: Architecture, setting: Setting) -> float:
    """Return what the last gradient of the backward pass needs beside all others: that of an embedding in two roles.

    Those of output layer and embedding are summed into a third (torch/csrc/autograd/input_buffer.cpp); it becomes the
    parameter's own where none waits.
    """
    if setting.adapter is not None or not model.tied or setting.layers_trained is not None:
        return 0.0
    return float((2 + setting.accumulates) * model.vocab * model.hidden * setting.weight_width)


def _unneeded(model: Architecture, setting: Setting) -> float:
    """Return what the first layer's norm keeps of a frozen embedding where that needs no gradient: nothing."""
    if (
        model.post_norm
        or setting.adapter is None
        or setting.checkpointing != "none"
        or setting.adapter.kind not in ("lora", "dora", "vera")
    ):
        return 0.0
    plain = not (model.layer_norm or setting.fused_norms or setting.compiled)
    width = _FP32 if plain else LayerTape(Tape(), model, setting).stream_width
    return float(setting.tokens * model.hidden * width)


def _layer_instants(
    costs: list[LayerCost],
    order: tuple[int, ...],
    held: float,
    start: tuple[float, float, float],
    *,
    accumulates: bool,
) -> list[Instant]:
    """Return the backward pass of the first and the last layer of each kind: most is stored, most gradients exist.

    Args:
        costs: of each kind of layer.
        order: the kind of each layer, from first to last.
        held: logits a caller still holds.
        start: gradients that exist when the last layer runs, all of them, and what is stored before the first layer.
        accumulates: whether all exist anyway.
    """
    early, whole, stored = start
    found = []
    made = sum(costs[kind].gradients for kind in order)
    firsts = {kind: order.index(kind) for kind in set(order)}
    lasts = {kind: index for index, kind in enumerate(order)}
    for index, kind in enumerate(order):
        cost = costs[kind]
        if index in (firsts[kind], lasts[kind]):
            now = early if accumulates else min(whole, early + made)
            found.append(Instant("backward", stored + cost.backward, held, whole if index == 0 else now))
        stored += cost.store
        made -= cost.gradients
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
