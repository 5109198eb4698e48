"""A light tokenizer: text <-> ids, the chat template, the tokens that end an answer; no transformers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ft_magic.errors import ModelError
from ft_magic.template.chat import ChatTemplate, Clock, local_time
from ft_magic.template.probe import Contract, contract_of

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TEMPLATE_FILE, _TEMPLATE_JSON_FILE = "chat_template.jinja", "chat_template.json"


class Codec(Protocol):
    """Text to ids and back, without anything added."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; special tokens written in it become themselves."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""

    def id_of(self, token: str) -> int | None:
        """Return a token's id; None where the vocabulary lacks it."""

    def token_of(self, token_id: int) -> str:
        """Return the vocabulary's own text of a token; special tokens read as they are written."""

    def begins_with(self, token: str | None) -> bool:
        """Return whether the tokenizer itself begins a text with this token."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A model's tokenizer and chat template.

    Attributes:
        name: what it was loaded from, for messages.
        codec: text to ids and back.
        named_tokens: ``bos_token``, ``eos_token`` ... -> text, as templates see them.
        special_ids: ids of special tokens.
        generation_stop_ids: stop ids of ``generation_config.json``; empty without that file.
        adds_bos: whether the tokenizer itself begins a text with the bos token.
        chat_template: jinja text; empty for a model without one.
        clock: gives the date to templates that write one.
        from_gguf: whether it was read from a GGUF file, whose metadata is then what must be right.
    """

    name: str
    codec: Codec
    named_tokens: Mapping[str, str]
    special_ids: frozenset[int]
    generation_stop_ids: tuple[int, ...] = ()
    adds_bos: bool = False
    chat_template: str = ""
    clock: Clock = field(default=local_time, repr=False)
    from_gguf: bool = False

    @staticmethod
    def load(folder: Path | str, *, clock: Clock = local_time) -> Tokenizer:
        """Read the tokenizer of a model folder or of a GGUF file.

        Args:
            folder: a Hugging Face model or tokenizer folder, or a GGUF file.
            clock: gives the date to templates that write one.

        Raises:
            ModelError: no such folder, or no tokenizer in it.
        """
        from ft_magic.template.codec import FastCodec, special_ids_of

        path = Path(folder).expanduser()
        if path.suffix == ".gguf" and path.is_file():
            from ft_magic.template.gguf_tokenizer import read_tokenizer

            return read_tokenizer(path, clock)
        if not path.is_dir():
            raise ModelError(
                f"There is no folder {path}.", "Give the folder of a model, or a name to resolve first."
            )
        if not (path / "tokenizer.json").is_file() or importlib.util.find_spec("tokenizers") is None:
            return _through_transformers(path, clock)
        config = _read_json(path / "tokenizer_config.json")
        named = _named_tokens(config, _read_json(path / "special_tokens_map.json"))
        codec = FastCodec.from_file(path / "tokenizer.json", config, named)
        return Tokenizer(
            name=path.name,
            codec=codec,
            named_tokens=named,
            special_ids=special_ids_of(codec, named),
            generation_stop_ids=_generation_stops(path),
            adds_bos=codec.begins_with(named.get("bos_token")),
            chat_template=_template_of(path, config),
            clock=clock,
        )

    @staticmethod
    def from_transformers(
        tokenizer: Any, *, folder: Path | None = None, clock: Clock = local_time
    ) -> Tokenizer:
        """Wrap a transformers tokenizer; ``folder`` is where its ``generation_config.json`` may lie."""
        from ft_magic.template.codec import FastCodec, SlowCodec

        backend = getattr(tokenizer, "backend_tokenizer", None)
        codec = FastCodec.copy_of(backend) if backend is not None else SlowCodec(tokenizer)
        named = {
            key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
        }
        template = tokenizer.chat_template
        return Tokenizer(
            name=Path(getattr(tokenizer, "name_or_path", "") or "tokenizer").name,
            codec=codec,
            named_tokens=named,
            special_ids=frozenset(tokenizer.all_special_ids) | frozenset(_added_specials(tokenizer)),
            generation_stop_ids=_generation_stops(folder) if folder else (),
            adds_bos=codec.begins_with(named.get("bos_token")),
            chat_template=_pick_template(template) if template else "",
            clock=clock,
        )

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text, None without one."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, None without one."""
        return self._named_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that fills batches, None without one."""
        return self._named_id("pad_token")

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end generation: the tokenizer's eos, then those of ``generation_config.json``."""
        own = () if self.eos_token_id is None else (self.eos_token_id,)
        return tuple(dict.fromkeys((*own, *self.generation_stop_ids)))

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of the special tokens, longest first."""
        texts = {self.codec.token_of(token_id) for token_id in self.special_ids}
        return tuple(sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text)))

    @cached_property
    def unlike_stop_id(self) -> int:
        """A token that ends no answer, to pad with: a special one where there is one.

        transformers scores a sequence at its last token that is no padding; where padding is the stop token, as it
        often is, that would be the token before the stop.
        """
        stops = set(self.stop_ids)
        special = [found for found in map(self.codec.id_of, self.special_texts) if found not in stops]
        return next(
            (found for found in special if found is not None), min(set(range(len(stops) + 1)) - stops)
        )

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """The compiled chat template; None for a model without one."""
        if not self.chat_template:
            return None
        return ChatTemplate(self.chat_template, self.named_tokens, self.clock)

    @cached_property
    def contract(self) -> Contract:
        """How the chat template begins and ends turns, learned by rendering probes."""
        return contract_of(self)

    @cached_property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end an answer: the template's end of turn and the stop tokens."""
        texts = [self.contract.end_of_turn, *(self.codec.token_of(token_id) for token_id in self.stop_ids)]
        return tuple(dict.fromkeys(text for text in texts if text))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text with nothing added; special tokens written in it become themselves."""
        return self.codec.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts, each as ``encode`` gives them."""
        return self.codec.encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.codec.decode(ids)

    def token_text(self, token_id: int) -> str:
        """Return the text of one token."""
        return self.codec.decode([token_id])

    def _named_id(self, name: str) -> int | None:
        token = self.named_tokens.get(name)
        return None if token is None else self.codec.id_of(token)

    def __repr__(self) -> str:
        template = "with chat template" if self.chat_template else "without chat template"
        stops = ", ".join(self.token_text(token_id) for token_id in self.stop_ids)
        return f"Tokenizer({self.name}, {template}, stops at {stops or 'nothing'})"


def _through_transformers(path: Path, clock: Clock) -> Tokenizer:
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(
            f"{path} holds no tokenizer.json, and transformers, which reads other kinds, is not installed.",
            "pip install transformers, or give a folder with tokenizer.json.",
        )
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path} holds no tokenizer that can be read ({first_line}).",
            "Copy tokenizer.json and tokenizer_config.json of the model into the folder.",
        ) from error
    return Tokenizer.from_transformers(tokenizer, folder=path, clock=clock)


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is absent.

    Raises:
        ModelError: the file is broken.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", "Download the model again.") from error
    return value if isinstance(value, dict) else {}


def _named_tokens(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name in _NAMED_TOKENS:
        value = config.get(name, special_map.get(name))
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            named[name] = value
    return named


def _generation_stops(path: Path) -> tuple[int, ...]:
    value = _read_json(path / "generation_config.json").get("eos_token_id")
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, int) else ()


def _template_of(path: Path, config: Mapping[str, Any]) -> str:
    """Return the default chat template; its own file outranks tokenizer_config.json, as in transformers."""
    if (path / _TEMPLATE_FILE).is_file():
        return (path / _TEMPLATE_FILE).read_text(encoding="utf-8")
    return _pick_template(
        _read_json(path / _TEMPLATE_JSON_FILE).get("chat_template") or config.get("chat_template")
    )


def _pick_template(value: Any) -> str:
    """Return the template named ``default`` of several (a list or a mapping), else the first."""
    if isinstance(value, list):
        value = {entry["name"]: entry["template"] for entry in value}
    if isinstance(value, dict):
        return str(value.get("default") or next(iter(value.values()), ""))
    return value if isinstance(value, str) else ""


def _added_specials(tokenizer: Any) -> list[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [token_id for token_id, token in added.items() if getattr(token, "special", False)]
