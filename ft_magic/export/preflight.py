"""What is checked before a model folder is converted: each fault would cost minutes or ship a broken file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic.errors import ExportError
from ft_magic.export.policy import find_file_type
from ft_magic.export.room import check_room
from ft_magic.export.safetensors_file import Weight, largest, weights_of
from ft_magic.export.tensor_types import TENSOR_TYPES
from ft_magic.progress import Progress

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight")
F16_MAX = 65504
# Mixtures give some tensors more bits than the base type: about this factor on a whole small model.
MIXTURE_FACTOR = 1.4


@dataclass(frozen=True)
class Preflight:
    """What the checks found.

    Attributes:
        architecture: the model class named in ``config.json``.
        parameters: number of weights.
        tokens: number of token ids the tokenizer can give; 0 where only a SentencePiece file says it.
        eos_token: the token that ends an answer.
        has_chat_template: whether the folder holds a chat template.
        notes: things that are no error but that a reader may want to know.
    """

    architecture: str
    parameters: int
    tokens: int
    eos_token: str
    has_chat_template: bool
    notes: tuple[str, ...]


def check(
    folder: Path,
    tools: Path,
    *,
    outtype: str,
    chat: bool,
    room: Path,
    then: Sequence[str],
    progress: Progress,
) -> Preflight:
    """Check a model folder before conversion.

    Args:
        folder: model folder (config, safetensors, tokenizer).
        tools: folder of the converter.
        outtype: type to convert to.
        chat: whether the model must have a chat template.
        room: folder the files will be written to.
        then: file types that will be made afterwards, for the disk check.
        progress: told how many bytes of weights have been looked at.

    Raises:
        ExportError: something that would make the conversion fail, or its result useless.
    """
    config = _config(folder)
    architecture = _architecture(config, tools)
    weights = list(_weights(folder))
    parameters = sum(weight.elements for weight in weights)
    _check_room(parameters, outtype, then, room)
    tokens = _check_tokens(folder, config, weights)
    eos_token, notes = _eos(folder, config)
    has_template = _has_template(folder)
    if chat and not has_template:
        raise ExportError(
            f"'{folder}' has no chat template, so no runtime would know how to ask this model.",
            "Copy chat_template.jinja or tokenizer_config.json from the base model; "
            "for a model trained on raw text say chat=False.",
        )
    _check_numbers(weights, outtype, progress)
    return Preflight(architecture, parameters, tokens, eos_token, has_template, notes)


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not config:
        raise ExportError(f"'{folder}' has no config.json.", "Give the folder of a merged model.")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "quantized")
        raise ExportError(
            f"the weights of '{folder}' are {method}; a converter reads 16- and 32-bit weights.",
            "Merge the run first (%ft merge): that dequantizes the base.",
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; an empty one where there is no file.

    Raises:
        ExportError: the file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(
            f"'{path}' is no valid JSON: {error}.", "Copy it again from the base model."
        ) from error
    if not isinstance(found, dict):
        raise ExportError(f"'{path}' holds no JSON object.", "Copy it again from the base model.")
    return found


def _architecture(config: Mapping[str, Any], tools: Path) -> str:
    """Return the model class if the converter's sources name it."""
    named = config.get("architectures") or [""]
    sources = [tools / "convert_hf_to_gguf.py", *sorted((tools / "conversion").glob("*.py"))]
    if named[0] and any(f'"{named[0]}"' in path.read_text(encoding="utf-8") for path in sources):
        return str(named[0])
    raise ExportError(
        f"the converter does not know the architecture '{named[0]}' (config.json, 'architectures').",
        "Set FT_MAGIC_LLAMA_CPP to a newer llama.cpp checkout; give a class of your own its parent's name.",
    )


def _weights(folder: Path) -> Iterator[Weight]:
    index = read_json(folder / "model.safetensors.index.json").get("weight_map")
    names = sorted(set(index.values())) if index else ["model.safetensors"]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ExportError(
                f"'{folder}' has no {name}.",
                "Save the model with save_pretrained(safe_serialization=True), or merge the run (%ft merge).",
            )
        yield from weights_of(path)


def _check_room(parameters: int, outtype: str, then: Sequence[str], room: Path) -> None:
    """Check the disk for the sum of all files, so that the last one does not fail after the others."""
    needed_bytes = 0.0
    for name in (outtype, *then):
        base = TENSOR_TYPES[find_file_type(name).base]
        factor = 1.0 if base.block_elements == 1 else MIXTURE_FACTOR
        needed_bytes += parameters * base.block_bytes / base.block_elements * factor
    check_room(room, needed_bytes, f"the export ({', '.join((outtype, *then))})")


def _check_tokens(folder: Path, config: Mapping[str, Any], weights: Sequence[Weight]) -> int:
    """Check that the tokenizer loads and that every token has its row in the embedding."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        if (folder / "tokenizer.model").is_file():
            return 0
        raise ExportError(
            f"'{folder}' has neither tokenizer.json nor tokenizer.model.", "Copy them from the base model."
        )
    from tokenizers import Tokenizer

    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises a bare Exception
        raise ExportError(
            f"'{path}' does not load: {error}.", "Copy it again from the base model."
        ) from error
    tokens = max(vocabulary.values()) + 1
    rows = next((w.shape[0] for w in weights if w.name.endswith(EMBEDDINGS)), None)
    said = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    for what, count in (("the embedding has", rows), ("config.json says", said)):
        if count is not None and count < tokens:
            raise ExportError(
                f"the tokenizer gives ids up to {tokens - 1}, and {what} {count} rows.",
                "Do not add a pad token (reuse one), or resize the embedding before training.",
            )
    return tokens


def _eos(folder: Path, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the token that ends an answer, and a note where two files disagree on it."""
    settings = read_json(folder / "tokenizer_config.json")
    token = settings.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    generation = read_json(folder / "generation_config.json")
    ids = generation.get("eos_token_id", config.get("eos_token_id"))
    if not text and ids is None:
        raise ExportError(
            f"'{folder}' names no end-of-answer token: the model would never stop.",
            "Write eos_token into tokenizer_config.json, as in the base model.",
        )
    notes = []
    added = settings.get("added_tokens_decoder", {})
    known = {entry.get("content"): int(number) for number, entry in added.items()}
    wanted = set(ids if isinstance(ids, list) else [ids])
    if text in known and ids is not None and known[text] not in wanted:
        notes.append(
            f"the tokenizer ends answers with '{text}' (id {known[text]}), generation_config.json with id "
            f"{', '.join(map(str, sorted(wanted)))}: runtimes will stop at the first."
        )
    return str(text or ids), tuple(notes)


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))


def _check_numbers(weights: Sequence[Weight], outtype: str, progress: Progress) -> None:
    """Check that every weight is a finite number, and that f16 can hold it if that is asked for."""
    total, done = sum(weight.elements for weight in weights), 0
    limit = F16_MAX if outtype == "f16" else math.inf
    for weight in weights:
        worst = largest(weight)
        if not math.isfinite(worst):
            raise ExportError(
                f"weight '{weight.name}' holds a number that is not finite.",
                "The training diverged: lower the learning rate, or export an earlier checkpoint.",
            )
        if worst > limit:
            raise ExportError(
                f"weight '{weight.name}' holds {worst:.3g}, more than f16 can ({F16_MAX}).",
                "Convert to bf16, which has the range of f32.",
            )
        done += weight.elements
        progress("checking the weights", done, total)
