"""The tensors that train: how many values, and of which shapes, as optimizers treat shapes differently."""

from __future__ import annotations

from ft_magic.memory.setting import Adapter, Setting
from ft_magic.models.architecture import Architecture

# Outputs, inputs (1 = a vector), and how many of it there are.
Shape = tuple[int, int, int]


def trained_values(model: Architecture, setting: Setting) -> int:
    """Return how many values train."""
    adapter = setting.adapter
    if adapter is None:
        return _full_values(model, setting)
    if adapter.values is not None:
        return adapter.values
    if adapter.kind in ("lora", "dora"):
        return _count(_lora_shapes(model, setting, adapter))
    return _other_values(model, adapter)


def trained_shapes(model: Architecture, setting: Setting) -> tuple[Shape, ...]:
    """Return the shapes of what trains; together about ``trained_values``, which is exact."""
    adapter = setting.adapter
    if adapter is None:
        return _full_shapes(model, setting)
    if adapter.kind in ("lora", "dora"):
        return _lora_shapes(model, setting, adapter)
    return ((trained_values(model, setting), 1, 1),)


def _count(shapes: tuple[Shape, ...]) -> int:
    return sum(rows * columns * copies for rows, columns, copies in shapes)


def _full_values(model: Architecture, setting: Setting) -> int:
    if setting.layers_trained is None:
        return model.parameters
    parts = model.parts
    layered = model.parameters - parts["embedding"] - parts["head"]
    return round(layered * _layers_trained(model, setting) / model.layers)


def _layers_trained(model: Architecture, setting: Setting) -> int:
    if setting.layers_trained is None:
        return model.layers
    return -(-model.layers // 4) if setting.layers_trained < 0 else setting.layers_trained


def _full_shapes(model: Architecture, setting: Setting) -> tuple[Shape, ...]:
    left = _layers_trained(model, setting)
    found: list[Shape] = []
    for block in reversed(model.blocks):  # top layers train first
        layers = min(left, block.layers)
        left -= layers
        if not layers:
            continue
        # Experts are one tensor (transformers from 5.0 on).
        found += [(matrix.copies * matrix.outputs, matrix.inputs, layers) for matrix in block.matrices]
        found += [(matrix.copies * matrix.outputs, 1, layers) for matrix in block.matrices if matrix.bias]
        found.append((block.norm_values, 1, layers))
    if setting.layers_trained is None:
        found += [(model.vocab, model.hidden, 1)] * (1 if model.tied else 2)
        found.append((model.norm_values + model.head_bias, 1, 1))
        if model.embedding_values:
            found.append((model.embedding_values // model.hidden, model.hidden, 1))
    return tuple(shape for shape in found if shape[0])


def saved_shapes(model: Architecture, setting: Setting) -> tuple[Shape, ...]:
    """Return the shapes of layers that train whole beside an adapter."""
    saved = setting.adapter.saved if setting.adapter else ()
    return ((model.vocab, model.hidden, 1),) * len({"embed_tokens", "lm_head"}.intersection(saved))


def _lora_shapes(model: Architecture, setting: Setting, adapter: Adapter) -> tuple[Shape, ...]:
    rank, found = adapter.rank, []
    for block in model.blocks:
        for matrix in block.matrices:
            if not adapter.aims_at(matrix.name) or (matrix.part == "experts" and setting.packed_experts):
                continue
            copies = block.layers * matrix.copies
            found += [(rank, matrix.inputs, copies), (matrix.outputs, rank, copies)]
            if adapter.kind == "dora":
                found.append((matrix.outputs, 1, copies))
    if adapter.head:
        found += [(rank, model.hidden, 1), (model.vocab, rank, 1)]
    return tuple(found)


def _other_values(model: Architecture, adapter: Adapter) -> int:
    tokens, hidden = adapter.virtual_tokens, model.hidden
    keys = model.kv_heads * model.head_dim
    outputs = sum(
        block.layers * (matrix.copies * (adapter.rank + matrix.outputs))
        for block in model.blocks
        for matrix in block.matrices
        if adapter.aims_at(matrix.name)
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
