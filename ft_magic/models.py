"""Where a model is (``resolve``) and what it is made of (``facts``), without loading it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_magic.errors import ModelError, nearest
from ft_magic.paths import cache_dir
from ft_magic.progress import Progress, silent

DEMO = "demo"
WAYS_ON = "Write 'demo' (the bundled SmolLM2-135M-Instruct), or the path of a local model folder."
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = ("*.safetensors", "*.bin")


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


def model_path(name: str) -> str:
    """Return the folder of a model as text: ``resolve`` for scripts.

    Raises:
        ModelError: see ``resolve``.
    """
    return str(resolve(name))


def resolve(reference: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of a model: ``demo``, a local folder, a GGUF file, or a hub id ``org/name``.

    ``demo`` and GGUF files are dequantized on first use into the cache folder; hub ids are downloaded into
    the hub's own cache (token from ``HF_TOKEN`` or the hub login).

    Raises:
        ModelError: nothing usable is there.
    """
    report = progress or silent
    if reference == DEMO:
        from ft_magic import demo_model

        return demo_model.ensure(report)
    place = Path(reference).expanduser()
    if place.is_dir():
        return _checked(place.absolute())
    if place.is_file():
        return _from_file(place.absolute(), report)
    if HUB_ID.fullmatch(reference) and reference[0] not in ".~":
        from ft_magic import hub

        return _checked(hub.snapshot(reference, WAYS_ON, report))
    raise ModelError(
        f"Model '{reference}' is no file or folder, and no hub id of the form org/name."
        f"{nearest(reference, [DEMO])}",
        WAYS_ON,
    )


def _checked(folder: Path) -> Path:
    """Return a local folder that holds a model.

    Raises:
        ModelError: it is empty, or has no ``config.json`` or no weights.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        raise ModelError(f"Model folder '{folder}' is empty.", WAYS_ON)
    if "config.json" in names:
        if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            raise ModelError(
                f"Model folder '{folder}' has a config.json but no weights ({' or '.join(WEIGHTS)}).",
                "Download or copy the weights into it again.",
            )
        return folder
    if "adapter_config.json" in names:
        raise ModelError(
            f"'{folder}' holds an adapter, not a model.",
            "Name the base model here, or merge the adapter first and name the merged folder.",
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        raise ModelError(
            f"Model folder '{folder}' has no config.json, only GGUF.",
            f"Name the file: '{folder / ggufs[0]}'.",
        )
    seen = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    raise ModelError(f"Model folder '{folder}' has no config.json (it has: {seen}).", WAYS_ON)


def _from_file(file: Path, progress: Progress) -> Path:
    """Return the folder of a dequantized GGUF file, made on first use.

    Raises:
        ModelError: another kind of file, or a GGUF file that cannot be dequantized.
    """
    if file.suffix != ".gguf":
        raise ModelError(
            f"Model '{file}' is a file; a model is a folder with config.json, or a .gguf file.", WAYS_ON
        )
    from ft_magic.cached_folder import cached_folder
    from ft_magic.dequantize import RECIPE, write_folder

    state = file.stat()
    # Name, size and time stand for the content: hashing a file of many GiB at every use would take seconds.
    key = sha256(f"{file}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()
    return cached_folder(
        cache_dir() / "models" / f"{file.stem}-{key[:12]}",
        {"source": str(file), "key": key, "recipe": RECIPE},
        lambda folder: write_folder(file, folder, progress=progress),
        # from the smallest common 4 bits a weight to 16
        needed_bytes=4 * state.st_size,
        progress=progress,
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
