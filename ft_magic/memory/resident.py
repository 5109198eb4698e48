"""What stays for the whole run: weights as stored, adapters, optimizer states, other models."""

from __future__ import annotations

from dataclasses import dataclass

from ft_magic.memory.setting import Setting
from ft_magic.models.architecture import Architecture

_LINEAR_PARTS = ("attention", "mlp", "experts")
_FP32 = 4
# bitsandbytes' 8-bit states keep an fp32 scale per 256 values, for each of the two (bitsandbytes/functional.py).
ADAM_8BIT = 2 + 2 * _FP32 / 256


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
    """

    weights: float
    unquantized: float
    constants: float
    adapter: float
    optimizer: float
    others: float
    trained: int
    trained_width: int


def resident(model: Architecture, setting: Setting) -> Resident:
    """Return what stays for the whole run."""
    adapter = setting.adapter
    trained = trained_values(model, setting)
    width = adapter.width if adapter else setting.weight_width
    optimizer = setting.optimizer
    per_value = 2 * width if optimizer.state_bytes is None else optimizer.state_bytes
    states = 0.0 if optimizer.paged else per_value * trained
    weights, unquantized, constants = _weights(model, setting)
    whole = weights + unquantized + constants
    copies = setting.frozen_copies + (0 if adapter else setting.twins)
    return Resident(
        weights=weights,
        unquantized=unquantized,
        constants=constants,
        adapter=trained * width * (1 + (adapter.sets if adapter else 0)) if adapter else 0.0,
        optimizer=states * (1 + setting.twins),
        others=copies * whole + setting.other_weights * setting.weight_width,
        trained=trained,
        trained_width=width,
    )


def _weights(model: Architecture, setting: Setting) -> tuple[float, float, float]:
    """Return the bytes of the stored matrices, of what is not quantized, and of the constants."""
    quantization = setting.quantization
    if quantization is None:
        return float(model.parameters * setting.weight_width), 0.0, 0.0
    parts = model.parts
    linear = sum(parts[name] for name in _LINEAR_PARTS)
    left = 0
    if quantization.targets_only and setting.adapter:
        left = sum(
            block.layers * matrix.weights
            for block in model.blocks
            for matrix in block.matrices
            if matrix.part in _LINEAR_PARTS and matrix.name not in setting.adapter.targets
        )
    head = parts["head"] if quantization.head else 0
    packed = linear - left + head
    rest = parts["embedding"] + parts["head"] - head + parts["router"] + parts["biases"]
    unquantized = (
        rest * quantization.rest_width
        + parts["norms"] * quantization.norm_width
        + left * setting.weight_width
    )
    bits = quantization.weight_bits
    return packed * bits / 8, unquantized, packed * (quantization.bits - bits) / 8


def trained_values(model: Architecture, setting: Setting) -> int:
    """Return how many values train."""
    adapter = setting.adapter
    if adapter is None:
        return _full_values(model, setting)
    if adapter.values is not None:
        return adapter.values
    if adapter.kind in ("lora", "dora"):
        return _lora_values(model, setting)
    tokens, hidden = adapter.virtual_tokens, model.hidden
    keys = model.kv_heads * model.head_dim
    outputs = sum(
        block.layers * (matrix.copies * (adapter.rank + matrix.outputs))
        for block in model.blocks
        for matrix in block.matrices
        if matrix.name in adapter.targets
    )
    counted = {
        "prompt": tokens * hidden,
        "prefix": tokens * model.layers * 2 * keys,
        "ptuning": tokens * hidden + 3 * hidden * hidden,
        "norms": model.parts["norms"],
        "vera": outputs,
        # Two bottlenecks of 64 a layer (Houlsby et al. 2019).
        "bottleneck": model.layers * 2 * (2 * hidden * 64 + hidden + 64),
        "ia3": model.layers * (2 * keys + model.inner),
    }
    return counted.get(adapter.kind, 0)


def _full_values(model: Architecture, setting: Setting) -> int:
    if setting.layers_trained is None:
        return model.parameters
    parts = model.parts
    trained = -(-model.layers // 4) if setting.layers_trained < 0 else setting.layers_trained
    layered = model.parameters - parts["embedding"] - parts["head"]
    return round(layered * trained / model.layers)


def _lora_values(model: Architecture, setting: Setting) -> int:
    adapter = setting.adapter
    if adapter is None:
        return 0
    total = sum(
        block.layers * matrix.copies
        * (adapter.rank * (matrix.inputs + matrix.outputs) + (matrix.outputs if adapter.kind == "dora" else 0))
        for block in model.blocks
        for matrix in block.matrices
        if matrix.name in adapter.targets
    )  # fmt: skip
    return total + (adapter.rank * (model.hidden + model.vocab) if adapter.head else 0)
