"""Where things are in a decoder: its layers, and the projections that updates attach to, found from the model itself.

Imported in the worker alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ft_magic.errors import ModelError

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
# Names that transformers gives to projections which make keys or values, alone or fused with queries.
_KEYS_VALUES = re.compile(r"(?:^|_)(?:k|v|kv|qkv|key|value)(?:_|$)|^c_attn$|^Wqkv$")


def layers(model: Any) -> Sequence[Any]:
    """Return the decoder's layers, the lowest first.

    Raises:
        ModelError: no list of layers as long as the configuration says.
    """
    found: Sequence[Any] = _owner(model)[1]
    return found


def norms(model: Any) -> list[Any]:
    """Return the norms after the last layer: what stands beside the layers and has weights of one dimension."""
    owner, _ = _owner(model)
    return [child for child in owner.children() if getattr(getattr(child, "weight", None), "ndim", 0) == 1]


def _owner(model: Any) -> tuple[Any, Any]:
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, child
    raise ModelError(
        f"no list of {count} layers in a {type(model).__name__}, so its projections cannot be found.",
        "Write update: lora, which needs no layers to be found.",
    )


def keys_and_values(model: Any) -> list[str]:
    """Return the projections that make keys and values, as names within a layer.

    Raises:
        ModelError: there are none.
    """
    found = [
        name
        for layer in layers(model)
        for name, _ in _linear(layer)
        if _ATTENTION.search(name) and _KEYS_VALUES.search(name.rpartition(".")[2])
    ]
    return _unique(found, model, "projections of keys and values")


def outputs(model: Any, *, attention: bool, feedforward: bool) -> list[str]:
    """Return the last projection of the attention part and of the feed-forward part, as names within a layer.

    Raises:
        ModelError: a part that is asked for has none.
    """
    width = model.config.get_text_config().hidden_size
    found: dict[bool, list[str]] = {True: [], False: []}
    for layer in layers(model):
        parts: dict[bool, dict[str, str]] = {True: defaultdict(str), False: defaultdict(str)}
        for name, module in _linear(layer):
            # Modules stand in the order they are called in: the last one as wide as the layer is its way out.
            if _out_features(module) == width:
                part = name.rpartition(".")[0].split(".")[0]
                parts[bool(_ATTENTION.search(name))][part] = name
        for kind, last in parts.items():
            found[kind] += last.values()
    names = _unique(found[True], model, "an output projection of attention") if attention else []
    if feedforward:
        names += _unique(found[False], model, "an output projection of the feed-forward part")
    return names


def _linear(layer: Any) -> Iterator[tuple[str, Any]]:
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield name, module


def _out_features(module: Any) -> int:
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)


def _unique(names: list[str], model: Any, what: str) -> list[str]:
    if names:
        return list(dict.fromkeys(names))
    raise ModelError(
        f"{type(model).__name__} has no linear layer that is {what}.",
        "Write update: lora, which takes every linear layer there is.",
    )
