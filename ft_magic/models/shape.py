"""The shape of a model, read from its configuration without loading a weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_magic.errors import ModelError

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


@dataclass(frozen=True)
class Decoder:
    """What tells one Llama-like architecture's weights from another's (source: transformers' modeling files).

    Attributes:
        attention_bias: which projections have a bias: ``""`` none, ``"qkv"`` those three, ``"config"`` all
            four if the config's ``attention_bias`` says so.
        norms: vectors of ``hidden_size`` a layer.
        head_norms: whether queries and keys are normalised a head (two vectors of ``head_dim``).
        tied: whether the embedding is shared when the config does not say.
    """

    attention_bias: str = ""
    norms: int = 2
    head_norms: bool = False
    tied: bool = False


DECODERS: Mapping[str, Decoder] = MappingProxyType(
    {
        "llama": Decoder("config"),
        "mistral": Decoder(),
        "qwen2": Decoder("qkv"),
        "qwen3": Decoder("config", head_norms=True),
        "gemma": Decoder("config", tied=True),
        "gemma2": Decoder("config", norms=4, tied=True),
        "gemma3_text": Decoder("config", norms=4, head_norms=True, tied=True),
        "phi3": Decoder(),
        "smollm3": Decoder("config", tied=True),
    }
)


def facts(folder: Path) -> ModelFacts:
    """Read the shape of a model from its ``config.json``; loads no weights and needs no torch.

    Raises:
        ModelError: no readable config, or not the config of a decoder language model.
    """
    config = _config(folder)
    try:
        heads = int(config["num_attention_heads"])
        hidden_size = int(config["hidden_size"])
        shape = ModelFacts(
            model_type=str(config["model_type"]),
            hidden_size=hidden_size,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden_size // heads),
            intermediate_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            tied_embeddings=_is_tied(config),
            max_length_tokens=config.get("max_position_embeddings"),
            parameters=None,
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            quantized="quantization_config" in config,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"'{folder / 'config.json'}' is not the config of a decoder language model ({error} is missing "
            f"or unreadable; model_type is '{config.get('model_type')}').",
            "Choose a causal language model such as 'demo'.",
        ) from error
    return replace(shape, parameters=_parameters(shape, config) or _stored_parameters(folder))


def _config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``; of a model that also sees or hears, its language part."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{file}' cannot be read: {error}.", WAYS_ON) from error
    if not isinstance(config, dict):
        raise ModelError(f"'{file}' holds no JSON object.", WAYS_ON)
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output layer is the embedding; configs leave the architecture's own default out."""
    default = DECODERS.get(str(config["model_type"]), Decoder()).tied
    return bool(config.get("tie_word_embeddings", default))


def _parameters(shape: ModelFacts, config: Mapping[str, Any]) -> int | None:
    """Return the number of weights of a Llama-like decoder in closed form; None for other architectures."""
    decoder = DECODERS.get(shape.model_type)
    if decoder is None:
        return None
    width, inner = shape.hidden_size, shape.intermediate_size
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = width * (2 * query + 2 * key_value)  # q and o, k and v
    if decoder.attention_bias == "qkv":
        attention += query + 2 * key_value
    elif decoder.attention_bias == "config" and config.get("attention_bias"):
        attention += query + 2 * key_value + width
    feed_forward = 3 * width * inner  # gate, up, down
    if config.get("mlp_bias"):
        feed_forward += 2 * inner + width
    norms = decoder.norms * width + (2 * shape.head_dim if decoder.head_norms else 0)
    embeddings = shape.vocab_size * width * (1 if shape.tied_embeddings else 2)
    return embeddings + shape.layers * (attention + feed_forward + norms) + width


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
