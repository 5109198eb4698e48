"""The feed-forward part of a layer on the tape: gates, activations, experts, and Unsloth's fused function.

Sources: transformers' ``activations.py``, ``integrations/moe.py``, ``modeling_mixtral.py``; Unsloth's
``kernels/fast_lora.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_magic.memory.tape import Tensor
from ft_magic.models.architecture import Matrix

if TYPE_CHECKING:
    from ft_magic.memory.block import LayerTape

_FP32, _TWO = 4, 2
_MOST_GROUPS = 8
# Activations of transformers' ``activations.py`` that are Python arithmetic, each step of which keeps its operands.
_WRITTEN_OUT = ("gelu_new", "gelu_fast")


def feed(layer: LayerTape, matrices: dict[str, Matrix], routed: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run the feed-forward part: dense, or the experts and what every token visits beside them."""
    if not routed:
        return _fed(layer, matrices, x, 1.0)
    out = _packed(layer, routed, x) if layer.setting.packed_experts else _looped(layer, routed, x)
    if "up_proj" not in matrices:
        return out
    always = _fed(layer, matrices, x, 1.0)
    total = layer.tape.add(out, always)
    layer.tape.drop(out, always)
    return total


def _packed(layer: LayerTape, routed: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run all experts at once, tokens sorted by expert (transformers' ``integrations/moe.py``, ``grouped_mm``)."""
    tape, share = layer.tape, float(layer.model.experts_per_token)
    rows = tape.apply((x,), x.values * share, x.width)
    fed = _fed(layer, routed, rows, share)
    tape.drop(rows)
    weighted = tape.apply((fed,), fed.values, fed.width, saves=(fed,))
    tape.drop(fed)
    # Put back into the tokens' order, and summed over the experts of each.
    out = tape.apply(
        (weighted,), x.values, x.width, temporary=weighted.size, backward_temporary=weighted.size
    )
    tape.drop(weighted)
    return out


def _looped(layer: LayerTape, routed: dict[str, Matrix], x: Tensor) -> Tensor:
    """Run the experts one after the other, as transformers before 5 did; more than 8 are counted in 8 groups."""
    model, tape, size = layer.model, layer.tape, layer.tokens * layer.model.hidden
    total = tape.make(size, x.width)
    groups = min(model.experts, _MOST_GROUPS)
    share = model.experts_per_token / groups
    for _ in range(groups):
        rows = tape.apply((x,), size * share, x.width)
        fed = _fed(layer, routed, rows, share)
        weighted = tape.apply((fed,), fed.values, fed.width, saves=(fed,))
        tape.drop(rows, fed)
        total = tape.add_into(total, weighted)
        tape.drop(weighted)
    return total


def _fed(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor, share: float) -> Tensor:
    tape = layer.tape
    if "gate_up_proj" in matrices:
        return _fed_by_one(layer, matrices, x, share)
    up = layer.linear(matrices["up_proj"], x, share)
    if not layer.model.gated:
        active = _activated(layer, up)
        tape.drop(up)
    else:
        gate = layer.linear(matrices["gate_proj"], x, share)
        if layer.setting.fused_lora and _every_gate(layer):
            return _fused_gates(layer, matrices["down_proj"], gate, up, share)
        if layer.setting.fused_mlp or layer.setting.compiled:
            active = tape.apply((gate, up), up.values, up.width, saves=(gate, up))
        else:
            soft = _activated(layer, gate)
            active = tape.apply((soft, up), up.values, up.width, saves=(soft, up))
            tape.drop(soft)
        tape.drop(gate, up)
    out = layer.linear(matrices["down_proj"], active, share)
    tape.drop(active)
    return out


def _fed_by_one(layer: LayerTape, matrices: dict[str, Matrix], x: Tensor, share: float) -> Tensor:
    """Run a feed-forward part whose gate and up projection are one matrix: both are views of its result."""
    tape = layer.tape
    pair = layer.linear(matrices["gate_up_proj"], x, share)
    half = pair.values / _TWO
    soft = tape.apply((pair,), half, pair.width, saves=(pair,))
    active = tape.apply((soft, pair), half, pair.width, saves=(soft, pair))
    tape.drop(soft, pair)
    out = layer.linear(matrices["down_proj"], active, share)
    tape.drop(active)
    return out


def _activated(layer: LayerTape, x: Tensor) -> Tensor:
    """Run the activation: one kernel that keeps its input, but for those written out in Python."""
    tape = layer.tape
    if layer.model.activation not in _WRITTEN_OUT or layer.setting.compiled:
        return tape.apply((x,), x.values, x.width, saves=(x,))
    # Autocast raises to a power in fp32, and what follows stays so.
    width = _FP32 if layer.setting.autocast_width else x.width
    wide = tape.cast(x, width)
    bent = tape.apply((wide,), x.values, width, saves=(wide,), saves_out=True)
    half = tape.apply((x,), x.values, x.width)
    out = tape.apply((half, bent), x.values, width, saves=(half,), extra_saved=x.values * width)
    tape.drop(wide, bent, half)
    narrow = tape.cast(out, x.width)
    tape.drop(out)
    return narrow


def _every_gate(layer: LayerTape) -> bool:
    adapter = layer.setting.adapter
    return (
        layer.aimed and adapter is not None and {"gate_proj", "up_proj", "down_proj"} <= set(adapter.targets)
    )


def _fused_gates(layer: LayerTape, down: Matrix, gate: Tensor, up: Tensor, share: float) -> Tensor:
    """Run the rest of Unsloth's ``LoRA_MLP``: gate and up are kept, their product is made again backward."""
    adapter, width = layer.setting.adapter, 0.0
    if adapter:
        width = adapter.rank * adapter.width * down.copies * (down.inputs + down.outputs)
    work = float(down.inputs * down.outputs * layer.compute) if layer.setting.quantization else 0.0
    out = layer.tape.apply(
        (gate, up), layer.tokens * share * down.outputs, layer.compute, saves=(gate, up),
        temporary=up.size + work, backward_temporary=up.size + work, trained=width,
    )  # fmt: skip
    layer.tape.drop(gate, up)
    return out
