"""The shape of a model, read from its configuration without loading a weight."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ft_magic.errors import ModelError
from ft_magic.models.architecture import Architecture, architecture, language_part

WAYS_ON = "Write 'demo' (the bundled SmolLM2-135M-Instruct), or the path of a local model folder."


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a decoder, read from its ``config.json``.

    Attributes:
        model_type: transformers' name of the architecture.
        hidden_size: width of the residual stream.
        layers: number of decoder layers.
        heads: query heads a layer.
        kv_heads: key and value heads a layer.
        head_dim: width of one head.
        intermediate_size: inner width of the feed-forward part.
        vocab_size: rows of the embedding.
        tied_embeddings: whether the output layer is the embedding itself.
        max_length_tokens: longest sequence the positions allow; None where the config does not say.
        parameters: number of weights; None where neither the formula nor a safetensors file tells.
        dtype: the type the weights are stored in, such as ``bfloat16``; ``float32`` where not said.
        architecture: its matrices, where the config was read.
        quantized: whether the stored weights are quantized (GPTQ, AWQ, bitsandbytes ...).
    """

    model_type: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool
    max_length_tokens: int | None
    parameters: int | None
    dtype: str
    quantized: bool
    architecture: Architecture | None = None


def facts(folder: Path) -> ModelFacts:
    """Read the shape of a model from its ``config.json``; loads no weights and needs no torch.

    Raises:
        ModelError: no readable config, or not the config of a decoder language model.
    """
    config = language_part(read_config(folder / "config.json"))
    try:
        made = architecture(config)
    except ModelError as error:
        raise ModelError(
            f"'{folder / 'config.json'}' is not the config of a decoder language model ({error.__cause__} is missing "
            f"or unreadable; model_type is '{config.get('model_type')}').",
            "Choose a causal language model such as 'demo'.",
        ) from error
    counted = made.parameters if made.known else _stored_parameters(folder)
    return ModelFacts(
        model_type=made.model_type,
        hidden_size=made.hidden,
        layers=made.layers,
        heads=made.heads,
        kv_heads=made.kv_heads,
        head_dim=made.head_dim,
        intermediate_size=made.inner,
        vocab_size=made.vocab,
        tied_embeddings=made.tied,
        max_length_tokens=config.get("max_position_embeddings") or config.get("n_positions"),
        parameters=counted,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        quantized="quantization_config" in config,
        architecture=made,
    )


def read_config(place: Path) -> dict[str, Any]:
    """Return what a ``config.json`` says, given the file or its folder.

    Raises:
        ModelError: it cannot be read, or holds no JSON object.
    """
    file = place / "config.json" if place.is_dir() else place
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{file}' cannot be read: {error}.", WAYS_ON) from error
    if not isinstance(config, dict):
        raise ModelError(f"'{file}' holds no JSON object.", WAYS_ON)
    return config


def _stored_parameters(folder: Path) -> int | None:
    """Return the number of values in the folder's safetensors files, from their headers; None without any."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(_values(file) for file in files) if files else None


def _values(file: Path) -> int:
    """Return the number of values in one safetensors file: 8 bytes of header length, then a JSON header.

    Source: https://github.com/huggingface/safetensors#format

    Raises:
        ModelError: the file is cut short or of another format.
    """
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(prod(row["shape"]) for name, row in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise ModelError(
            f"'{file}' is not a whole safetensors file.", "Download or copy it again."
        ) from error
