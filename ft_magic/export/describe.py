"""What a GGUF file says about itself, read without loading a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ft_magic.export import gguf_file
from ft_magic.export.gguf_file import GgufFile
from ft_magic.export.mixtures import FILE_TYPES

TOKENS, TOKEN_TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
EOS = "tokenizer.ggml.eos_token_id"
# Ids at which llama.cpp ends an answer: end of sequence, of turn, of message.
STOPS = (EOS, "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
CONTROL, USER_DEFINED = 3, 4  # llama.cpp's token types of special tokens


@dataclass(frozen=True)
class GgufInfo:
    """What a GGUF file says about itself.

    Attributes:
        path: the file.
        architecture: llama.cpp's name of the model's architecture.
        name: the model's name, empty where the file has none.
        file_type: e.g. ``Q4_K_M``; ``unknown (N)`` for a number this version does not know.
        context_tokens: longest context the model was made for, 0 where the file does not say.
        eos_id: id of the token that ends an answer; None where the file names none.
        eos_token: its text, empty where there is none.
        stop_ids: ids at which runtimes end an answer, ``eos_id`` first.
        stop_tokens: their texts.
        chat_template: the Jinja chat template, empty where there is none.
        tensor_types: number of tensors by ggml type, most frequent first.
        parameters: number of weights.
        bytes: size of the file.
    """

    path: Path
    architecture: str
    name: str
    file_type: str
    context_tokens: int
    eos_id: int | None
    eos_token: str
    stop_ids: tuple[int, ...]
    stop_tokens: tuple[str, ...]
    chat_template: str
    tensor_types: Mapping[str, int]
    parameters: int
    bytes: int


def describe(gguf: Path) -> GgufInfo:
    """Return what a GGUF file says about itself.

    Raises:
        ExportError: there is no such file, or it is no whole GGUF file.
    """
    file = gguf_file.read(gguf)
    architecture = str(file.get("general.architecture", ""))
    eos_id = file.get(EOS)
    stop_ids = tuple(dict.fromkeys(file.get(key) for key in STOPS if key in file.fields))
    return GgufInfo(
        path=gguf,
        architecture=architecture,
        name=str(file.get("general.name", "")),
        file_type=_file_type(file),
        context_tokens=int(file.get(f"{architecture}.context_length", 0)),
        eos_id=eos_id,
        eos_token="" if eos_id is None else _token(file, eos_id),
        stop_ids=stop_ids,
        stop_tokens=tuple(_token(file, number) for number in stop_ids),
        chat_template=str(file.get("tokenizer.chat_template", "")),
        tensor_types=_counts(file),
        parameters=sum(tensor.elements for tensor in file.tensors),
        bytes=file.bytes,
    )


def tensor_summary(gguf: Path) -> Mapping[str, int]:
    """Return the number of tensors by ggml type, most frequent first.

    Raises:
        ExportError: there is no such file, or it is no whole GGUF file.
    """
    return _counts(gguf_file.read(gguf))


def special_tokens(gguf: Path) -> frozenset[str]:
    """Return the texts of all special tokens: those that are one token whatever stands around them.

    Raises:
        ExportError: there is no such file, or it is no whole GGUF file.
    """
    file = gguf_file.read(gguf)
    texts, kinds = file.get(TOKENS, []), file.get(TOKEN_TYPES, [])
    pairs = zip(texts, kinds, strict=False)  # a file without types has no special tokens
    return frozenset(text for text, kind in pairs if kind in (CONTROL, USER_DEFINED))


def _counts(file: GgufFile) -> Mapping[str, int]:
    return MappingProxyType(dict(Counter(tensor.kind.name for tensor in file.tensors).most_common()))


def _file_type(file: GgufFile) -> str:
    number = file.get("general.file_type")
    return next((row.name for row in FILE_TYPES.values() if row.number == number), f"unknown ({number})")


def _token(file: GgufFile, number: int) -> str:
    """Return a token's text, empty where the file has no such token."""
    try:
        return str(file.fields[TOKENS].item(number))
    except (KeyError, IndexError):
        return ""
