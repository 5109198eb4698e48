"""How byte-level BPE tokenizers of GGUF files split text before they merge, by the name the file gives.

A GGUF file names its way of splitting (``tokenizer.ggml.pre``) and does not hold it. The patterns are those of
llama.cpp (``src/llama-vocab.cpp``), which runs the file; kinds that are not here are refused: a near miss is silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """A way of splitting.

    Attributes:
        patterns: applied one after the other; matches and what lies between them are pieces.
        ignore_merges: whether a piece that is in the vocabulary is one token whatever the merges say.
        adds_bos: whether the bos token is put before a text where the file does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


_DIGITS_APART = Splitting((_DIGIT, _GPT2))
SPLITTINGS: Mapping[str, Splitting] = MappingProxyType(
    {
        "gpt-2": Splitting((_GPT2,)),
        "smollm": _DIGITS_APART,
        "starcoder": _DIGITS_APART,
        "refact": _DIGITS_APART,
        "command-r": _DIGITS_APART,
        "llama-bpe": Splitting((_WORDS % r"\p{N}{1,3}",), ignore_merges=True, adds_bos=True),
        "qwen2": Splitting((_WORDS % _DIGIT,)),
    }
)


def splitter(way: Splitting) -> Any:
    """Return the ``tokenizers`` pre-tokenizer that splits this way and writes bytes as letters."""
    from tokenizers import Regex, pre_tokenizers

    first = [
        pre_tokenizers.Digits(individual_digits=True)
        if pattern == _DIGIT
        else pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        for pattern in way.patterns
        if pattern != _GPT2  # which ByteLevel has built in
    ]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=_GPT2 in way.patterns)
    return pre_tokenizers.Sequence([*first, last])
