"""What stays for the whole run: weights as stored, adapters, optimizer states, other models."""

from __future__ import annotations

from dataclasses import dataclass

from ft_magic.memory.optimizers import ADAM_8BIT, state_bytes, step_bytes
from ft_magic.memory.setting import Setting
from ft_magic.memory.trainables import saved_shapes, trained_shapes, trained_values
from ft_magic.models.architecture import Architecture

__all__ = ["ADAM_8BIT", "Resident", "resident"]
_LINEAR_PARTS = ("attention", "mlp", "experts")


@dataclass(frozen=True)
class Resident:
    """Bytes that stay.

    Attributes:
        weights: quantized matrices without constants, or the plain weights.
        unquantized: what a quantizer leaves alone.
        constants: quantization constants.
        adapter: trained matrices beside frozen weights.
        optimizer: its states, as far as they are in the allocator.
        others: further models.
        trained: values that train.
        trained_width: bytes of each.
        step: what an optimizer step needs for a moment.
        gradients: of all that trains, where they exist together.
    """

    weights: float
    unquantized: float
    constants: float
    adapter: float
    optimizer: float
    others: float
    trained: int
    trained_width: int
    step: float
    gradients: float


def resident(model: Architecture, setting: Setting) -> Resident:
    """Return what stays for the whole run."""
    adapter = setting.adapter
    trained = trained_values(model, setting)
    width = adapter.width if adapter else setting.weight_width
    shapes = trained_shapes(model, setting)
    counted = sum(rows * columns * copies for rows, columns, copies in shapes)
    share = trained / counted if counted else 0.0  # the caller's own count of an adapter may differ
    states = state_bytes(setting.optimizer, shapes, width) * share
    step = step_bytes(setting.optimizer, shapes, width) * min(share, 1.0)
    whole_width = setting.quantization.rest_width if setting.quantization else setting.weight_width
    saved = saved_shapes(model, setting)  # a copy of each trains, beside the frozen one
    saved_bytes = float(sum(rows * columns for rows, columns, _ in saved) * whole_width)
    states += state_bytes(setting.optimizer, saved, whole_width)
    step += step_bytes(setting.optimizer, saved, whole_width)
    weights, unquantized, constants = _weights(model, setting)
    whole = weights + unquantized + constants
    copies = setting.frozen_copies + (0 if adapter else setting.twins)
    return Resident(
        weights=weights,
        unquantized=unquantized,
        constants=constants,
        adapter=trained * width * (1 + adapter.sets) + saved_bytes if adapter else 0.0,
        optimizer=states * (1 + setting.twins),
        others=copies * whole + setting.other_weights * setting.weight_width,
        trained=trained,
        trained_width=width,
        step=step,
        gradients=float(trained * width) + saved_bytes,
    )


def _weights(model: Architecture, setting: Setting) -> tuple[float, float, float]:
    """Return the bytes of the stored matrices, of what is not quantized, and of the constants."""
    quantization = setting.quantization
    if quantization is None:
        return float(model.parameters * setting.weight_width), 0.0, 0.0
    parts = model.parts
    linear = sum(parts[name] for name in _LINEAR_PARTS)
    experts = parts["experts"] if setting.packed_experts else 0
    linear -= experts
    left = 0
    if quantization.targets_only and setting.adapter:
        left = sum(
            block.layers * matrix.weights
            for block in model.blocks
            for matrix in block.matrices
            if matrix.part in _LINEAR_PARTS and not setting.adapter.aims_at(matrix.name)
        )
    head = parts["head"] if quantization.head else 0
    packed = linear - left + head
    rest = parts["embedding"] + parts["head"] - head + parts["router"] + parts["biases"]
    unquantized = (
        rest * quantization.rest_width
        + parts["norms"] * quantization.norm_width
        + (left + experts) * setting.weight_width
    )
    bits = quantization.weight_bits
    return packed * bits / 8, unquantized, packed * (quantization.bits - bits) / 8
