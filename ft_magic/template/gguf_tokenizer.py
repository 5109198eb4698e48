"""The tokenizer, the template and the stop tokens of a GGUF file, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ft_magic.template.codec import FastCodec, special_ids_of

if TYPE_CHECKING:
    from ft_magic.template.chat import Clock
    from ft_magic.template.tokenizer import Tokenizer

_ENDS = ("eos", "eot", "eom")  # ids at which llama.cpp ends an answer: of sequence, of turn, of message


def read_tokenizer(file: Path, clock: Clock) -> Tokenizer:
    """Return what a runtime will use of a GGUF file.

    Raises:
        ModelError: no ``gguf`` or ``tokenizers`` package, no GGUF file, or a tokenizer of a kind that is not
            rebuilt exactly.
    """
    from ft_magic.models.dequantize import SPECIAL, adds_bos, build_tokenizer, read_fields
    from ft_magic.template.tokenizer import Tokenizer

    fields = read_fields(file)
    codec = FastCodec(build_tokenizer(fields))
    tokens = fields["tokenizer.ggml.tokens"]
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL.items()}
    named = {name: tokens[number] for name, number in ids.items() if number is not None}
    ends = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in _ENDS]
    return Tokenizer(
        name=file.name,
        codec=codec,
        named_tokens=named,
        special_ids=special_ids_of(codec, named),
        generation_stop_ids=tuple(dict.fromkeys(number for number in ends if number is not None)),
        adds_bos=adds_bos(fields),
        chat_template=str(fields.get("tokenizer.chat_template") or ""),
        clock=clock,
        from_gguf=True,
    )
