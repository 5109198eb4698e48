"""Text to ids and back: by the ``tokenizers`` package, else by a transformers tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_magic.errors import ModelError


class FastCodec:
    """A ``tokenizers.Tokenizer``.

    Args:
        backend: the tokenizer; this object owns it and switches truncation and padding off.
    """

    def __init__(self, backend: Any) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend

    @staticmethod
    def from_file(path: Path, config: Mapping[str, Any], named: Mapping[str, str]) -> FastCodec:
        """Read ``tokenizer.json``; add tokens only ``tokenizer_config.json`` names, as transformers does.

        Raises:
            ModelError: the file is no tokenizer.
        """
        import tokenizers

        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for every fault in the file
            raise ModelError(f"{path} is no tokenizer: {error}.", "Download the model again.") from error
        codec = FastCodec(backend)
        codec._add_missing(config, named)
        return codec

    @staticmethod
    def copy_of(backend: Any) -> FastCodec:
        """Return a codec on a copy, so that the owner's truncation and padding stay as they are."""
        import tokenizers

        return FastCodec(tokenizers.Tokenizer.from_str(backend.to_str()))

    def _add_missing(self, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
        import tokenizers

        listed = config.get("added_tokens_decoder") or {}
        for _, entry in sorted(listed.items(), key=lambda item: int(item[0])):
            if self.backend.token_to_id(entry["content"]) is None:
                flags = {key: bool(entry.get(key)) for key in ("lstrip", "rstrip", "single_word", "special")}
                token = tokenizers.AddedToken(
                    entry["content"], normalized=bool(entry.get("normalized", True)), **flags
                )
                self.backend.add_tokens([token])
        unknown = [token for token in named.values() if self.backend.token_to_id(token) is None]
        if unknown:
            self.backend.add_special_tokens(unknown)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts, on all cores unless ``TOKENIZERS_PARALLELISM`` says otherwise."""
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def id_of(self, token: str) -> int | None:
        """Return a token's id."""
        found: int | None = self.backend.token_to_id(token)
        return found

    def token_of(self, token_id: int) -> str:
        """Return the vocabulary's own text of a token."""
        return str(self.backend.id_to_token(token_id) or "")

    def begins_with(self, token: str | None) -> bool:
        """Return whether the tokenizer's own post-processing begins a text with this token."""
        ids = self.backend.encode("a", add_special_tokens=True).ids
        return token is not None and bool(ids) and ids[0] == self.id_of(token)


class SlowCodec:
    """A transformers tokenizer without a ``tokenizers`` backend.

    Args:
        tokenizer: the transformers object.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [int(token_id) for token_id in self._tokenizer.encode(text, add_special_tokens=False)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def id_of(self, token: str) -> int | None:
        """Return a token's id."""
        found = self._tokenizer.get_vocab().get(token)
        return None if found is None else int(found)

    def token_of(self, token_id: int) -> str:
        """Return the vocabulary's own text of a token."""
        return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def begins_with(self, token: str | None) -> bool:
        """Return whether the tokenizer itself begins a text with this token."""
        ids = self._tokenizer.encode("a")
        return token is not None and bool(ids) and ids[0] == self.id_of(token)


def special_ids_of(codec: FastCodec, named: Mapping[str, str]) -> frozenset[int]:
    """Return the ids of every special token, and of the named ones even where they are not marked special."""
    added = {i for i, token in codec.backend.get_added_tokens_decoder().items() if token.special}
    return frozenset(added | {i for i in map(codec.id_of, named.values()) if i is not None})
