"""Markup in the text of rows: of other families of models, and of the model's own special tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.data.report.finding import Finding
from ft_magic.data.report.finding import finding_of as finding
from ft_magic.data.row import contents
from ft_magic.data.turns import turn

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

ZERO_WIDTH = "\u200b"  # breaks a special token's text without being seen
_MOST_FOREIGN_SHARE = 0.5  # above it the data as a whole was made for another family
_SPEAKERS: Mapping[str, str] = MappingProxyType(
    {
        "system": "system", "system_token": "system",
        "assistant": "assistant", "model": "assistant", "response": "assistant", "chatbot_token": "assistant",
        "ai": "assistant", "bot": "assistant", "/inst": "assistant",
        "tool": "tool", "ipython": "tool", "observation": "tool",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How a family of models marks turns.

    Attributes:
        name: of the family.
        header: begins a turn; the group ``role`` says whose.
        end: what else it writes around turns.
        needs_both: whether only a text with turns of both sides counts: the marks are plain words.
    """

    name: str
    header: re.Pattern[str]
    end: re.Pattern[str]
    needs_both: bool = False

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return re.compile(
            "|".join(f"(?:{p.pattern.replace('?P<role>', '')})" for p in (self.header, self.end))
        )

    def found_in(self, text: str) -> bool:
        """Return whether the text carries the family's markup."""
        if not self.needs_both:
            return self._any.search(text) is not None
        sides = {speaker(match["role"]) for match in self.header.finditer(text)}
        return {"user", "assistant"} <= sides

    def stripped(self, text: str) -> str:
        """Return the text without the markup and the white space around it."""
        return self._any.sub("", text).strip() if self.found_in(text) else text

    def turns(self, text: str) -> list[dict[str, Any]]:
        """Return the turns written in the text; what stands before the first header counts as the system's."""
        headers = list(self.header.finditer(text))
        if not headers:
            return []
        before = self._any.sub("", text[: headers[0].start()]).strip()
        found = [turn("system", before)] if before else []
        ends = [*(match.start() for match in headers[1:]), len(text)]
        for match, end in zip(headers, ends, strict=True):
            if said := self._any.sub("", text[match.end() : end]).strip():
                found.append(turn(speaker(match["role"]), said))
        return found


def speaker(word: str) -> str:
    """Return the role a family's word stands for."""
    return _SPEAKERS.get(word.lower(), "user")


def _family(name: str, header: str, end: str = r"(?!)", **more: bool) -> Family:
    return Family(name, re.compile(header), re.compile(end), **more)


FAMILIES = (
    _family(
        "ChatML", r"<\|im_start\|>[ \t]*(?P<role>system|user|assistant|tool)?[ \t]*\n?", r"<\|im_end\|>[ \t]*\n?"
    ),
    _family(
        "Llama 3", r"<\|start_header_id\|>[ \t]*(?P<role>\w*)[ \t]*<\|end_header_id\|>\s*",
        r"<\|(?:eot_id|eom_id|begin_of_text|end_of_text)\|>",
    ),
    _family("Llama 2 and Mistral", r"\[(?P<role>/?INST)\]", r"<</?SYS>>"),
    _family("Gemma", r"<start_of_turn>(?P<role>user|model)?\n?", r"<end_of_turn>\n?"),
    _family("Phi and Zephyr", r"<\|(?P<role>system|user|assistant)\|>\s*", r"<\|end\|>"),
    _family("DeepSeek", r"<\uff5c(?P<role>User|Assistant)\uff5c>", r"<\uff5c(?:begin|end)▁of▁sentence\uff5c>"),
    _family(
        "Command R", r"<\|START_OF_TURN_TOKEN\|><\|(?P<role>SYSTEM_TOKEN|USER_TOKEN|CHATBOT_TOKEN)\|>",
        r"<\|END_OF_TURN_TOKEN\|>",
    ),
    _family(
        "Alpaca", r"(?m:^)###[ \t]*(?P<role>Instruction|Input|Response|System|User|Human|Assistant)[ \t]*:[ \t]*\n?"
    ),
    _family(
        "a Human/Assistant transcript", r"(?m:^)(?P<role>Human|User|Assistant|AI|Bot):[ \t]*", needs_both=True
    ),
    _family("a text's begin or end", r"(?P<role>(?!))", r"\A\s*<s>|(?:</s>|<\|endoftext\|>)\s*\Z"),
)  # fmt: skip
# A text without any of these carries no markup: looked for first, because it is ten times faster.
_HINTS = ("<|", "<\uff5c", "INST]", "SYS>>", "_of_turn>", "###", "Assistant:", "AI:", "Bot:", "<s>", "</s>")


def foreign_families(tokenizer: Tokenizer) -> tuple[Family, ...]:
    """Return the families whose markup the model's own template does not write."""
    own = tokenizer.contract.probe
    return tuple(family for family in FAMILIES if not family.found_in(own))


def foreign_markup(tokenizer: Tokenizer, data: Data) -> Finding | None:
    """Return the finding about rows written for another family of models."""
    families = foreign_families(tokenizer)
    specials = _special_pattern(tokenizer)
    counted: Counter[str] = Counter()
    rows = []
    for index, row in enumerate(data.rows):
        names = {f.name for text in contents(row) for f in _found(families, text, specials)}
        if names:
            rows.append(index)
            counted.update(names)
    # Raw text and models without a template may be meant to learn such marks.
    plain = data.signal == "text" or tokenizer.chat is None
    level = "broken" if len(rows) > _MOST_FOREIGN_SHARE * len(data) else "warning"
    named = ", ".join(f"{name} in {count}" for name, count in counted.most_common())
    return finding(
        "foreign_markup", "info" if plain else level, rows,
        f"{{n}} with the markup of another family of models: {named}.",
        "" if data.signal == "text" else "audit.fix('foreign_markup') makes turns of it, or takes it out",
    )  # fmt: skip


def _found(families: tuple[Family, ...], text: str, specials: re.Pattern[str] | None) -> list[Family]:
    if not any(hint in text for hint in _HINTS):
        return []
    # The model's own special tokens are another check's business.
    rest = specials.sub("", text) if specials is not None and "<" in text else text
    return [family for family in families if family.found_in(rest)]


def special_text(tokenizer: Tokenizer, data: Data) -> Finding | None:
    """Return the finding about rows that contain the text of the model's special tokens.

    They are counted and left as they are, because some data means them (a text of rendered chats); the fix
    escapes them, see ``escaped``.
    """
    pattern = _special_pattern(tokenizer)
    if pattern is None:
        return None
    rows = [i for i, row in enumerate(data.rows) if any(pattern.search(text) for text in contents(row))]
    return finding(
        "special_text", "warning", rows,
        "{n} with the text of a special token: it is read as the token itself and can end or fake a turn.",
        "audit.fix('special_text') breaks it with a character of no width; a stop that ends an answer is taken out",
    )  # fmt: skip


def _special_pattern(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    texts = tokenizer.special_texts
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def escaped(tokenizer: Tokenizer, text: str) -> str:
    """Return the text so that no special token is read in it.

    A character of no width goes behind the first sign of each special token's text. Where the tokenizer drops
    such characters, a space goes there, which can be seen.
    """
    pattern = _special_pattern(tokenizer)
    if pattern is None or not pattern.search(text):
        return text
    for between in (ZERO_WIDTH, " "):
        broken = text
        for special in tokenizer.special_texts:  # longest first, as the pattern has them
            broken = broken.replace(special, special[0] + between + special[1:])
        if not set(tokenizer.encode(broken)) & tokenizer.special_ids:
            return broken
    return pattern.sub("", text)


def without_stop(tokenizer: Tokenizer, text: str) -> str:
    """Return an answer without the stop tokens at its end: the template writes its own."""
    ends = "|".join(map(re.escape, tokenizer.stop_texts))
    return re.sub(rf"(?:\s*(?:{ends}))+\s*\Z", "", text) if ends else text


def unmarked(tokenizer: Tokenizer, text: str) -> str:
    """Return the text without the markup of other families."""
    for family in foreign_families(tokenizer):
        text = family.stripped(text)
    return text


def turns_in(tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """Return the conversation written into a text in another family's markup; empty where there is none."""
    for family in foreign_families(tokenizer):
        found = family.turns(text) if family.found_in(text) else []
        if {"user", "assistant"} <= {said["role"] for said in found}:
            return found
    return []
