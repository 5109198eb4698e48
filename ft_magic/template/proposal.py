"""A chat template for a model that has none, or whose own cannot be trained, and what it adds."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.errors import TemplateError, nearest

if TYPE_CHECKING:
    from ft_magic.template.tokenizer import Tokenizer

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Headers end with a newline, which tokenizers keep apart from the words after it.
_PLAIN = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
# name -> (template, tokens it needs, token that ends an answer, empty for the tokenizer's own eos)
_KNOWN: Mapping[str, tuple[str, tuple[str, ...], str]] = MappingProxyType(
    {"chatml": (_CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"), "plain": (_PLAIN, (), "")}
)


@dataclass(frozen=True)
class Proposal:
    """A chat template to put into a model's folder.

    Attributes:
        name: ``chatml``, ``plain`` or ``training``.
        template: its jinja text.
        tokenizer: the model's tokenizer with this template, to check data with.
        new_tokens: tokens it needs and the tokenizer lacks.
        says: what it adds.
    """

    name: str
    template: str
    tokenizer: Tokenizer
    new_tokens: tuple[str, ...]
    says: str

    def write(self, folder: Path | str) -> Path:
        """Write the template and its stop token into a model folder; returns the template's path.

        Raises:
            TemplateError: no such folder, or the tokenizer lacks tokens the template needs.
        """
        place = Path(folder).expanduser()
        if not (place / "tokenizer_config.json").is_file():
            raise TemplateError(
                f"'{place}' holds no tokenizer_config.json.",
                "Give the folder of the model, a copy of your own.",
            )
        if self.new_tokens:
            raise TemplateError(
                f"The tokenizer lacks {' and '.join(self.new_tokens)}.",
                "Add them with tokenizer.add_special_tokens, resize the model's embeddings and train these with "
                "modules_to_save: [embed_tokens, lm_head]; or take audit.propose('plain'), which needs none.",
            )
        path = place / "chat_template.jinja"
        path.write_text(self.template, encoding="utf-8")
        _change(place / "tokenizer_config.json", {"eos_token": self.tokenizer.named_tokens.get("eos_token")})
        if (place / "generation_config.json").is_file() and self.tokenizer.stop_ids:
            _change(place / "generation_config.json", {"eos_token_id": list(self.tokenizer.stop_ids)})
        return path


def propose(tokenizer: Tokenizer, name: str = "") -> Proposal:
    """Return a template for a model.

    Args:
        tokenizer: of the model.
        name: ``chatml``, ``plain`` (headers in words, no new token) or ``training`` (the training version TRL
            ships of the model's own template); without a name ChatML where the tokenizer knows its tokens,
            else the plain one.

    Raises:
        TemplateError: no such template.
    """
    if name == "training":
        return _known_training(tokenizer)
    if not name:
        name = "plain" if _missing(tokenizer, _KNOWN["chatml"][1]) else "chatml"
    if name not in _KNOWN:
        choices = (*_KNOWN, "training")
        raise TemplateError(
            f"There is no template '{name}' to propose.{nearest(name, choices)}",
            f"Choose one of: {', '.join(choices)}.",
        )
    template, needs, stop = _KNOWN[name]
    missing = _missing(tokenizer, needs)
    named = {**tokenizer.named_tokens, **({"eos_token": stop} if stop else {})}
    own = tokenizer.codec.id_of(stop) if stop else None
    stops = tuple(dict.fromkeys((*([] if own is None else [own]), *tokenizer.generation_stop_ids)))
    changed = replace(
        tokenizer, chat_template=template, named_tokens=named,
        generation_stop_ids=stops if tokenizer.generation_stop_ids else (),
    )  # fmt: skip
    return Proposal(name, template, changed, missing, _says(tokenizer, name, missing))


def _says(tokenizer: Tokenizer, name: str, missing: tuple[str, ...]) -> str:
    if name == "plain":
        eos = tokenizer.named_tokens.get("eos_token", "")
        ends = eos or "nothing: the tokenizer has no eos"
        return f"headers in words ('### User:'), answers end with {ends}; no new token"
    if missing:
        return (
            f"ChatML; it adds {' and '.join(missing)}, which mean nothing yet and must be trained: "
            "modules_to_save: [embed_tokens, lm_head]"
        )
    return "ChatML, whose tokens the tokenizer knows; answers end with <|im_end|>; no new token"


def _missing(tokenizer: Tokenizer, texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text for text in texts if tokenizer.codec.id_of(text) is None)


def training(tokenizer: Tokenizer) -> Proposal | None:
    """Return the training version TRL ships of the model's own template; None where there is none."""
    path = training_version(tokenizer.chat_template)
    if path is None:
        return None
    template = path.read_text(encoding="utf-8")
    changed = replace(tokenizer, chat_template=template)
    return Proposal("training", template, changed, (), f"the training version TRL ships ({path.name})")


def _known_training(tokenizer: Tokenizer) -> Proposal:
    found = training(tokenizer)
    if found is None:
        raise TemplateError(
            f"TRL ships no training version of the chat template of {tokenizer.name}, or is not installed.",
            "Write one: the prompt of generation must be a beginning of the whole conversation.",
        )
    return found


def training_version(template: str) -> Path | None:
    """Return the file of the training version TRL ships of a template; None where there is none."""
    package = importlib.util.find_spec("trl")
    if not template or package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "chat_templates"
    for file in sorted(folder.glob("*_training.jinja")):
        original = file.with_name(file.name.replace("_training", ""))
        if original.is_file() and original.read_text(encoding="utf-8").strip() == template.strip():
            return file
    return None


def _change(path: Path, values: Mapping[str, Any]) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {key: value for key, value in values.items() if value is not None}
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
