"""What a chat template does, learned by rendering small conversations with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_magic.errors import TemplateError

if TYPE_CHECKING:
    from ft_magic.template.chat import ChatTemplate
    from ft_magic.template.tokenizer import Tokenizer

_QUESTION, _ANSWER, _REASON = "ft-magic question", "ft-magic answer", "ft-magic reason"
_ASKED: Mapping[str, Any] = {"role": "user", "content": _QUESTION}
_SAID: Mapping[str, Any] = {"role": "assistant", "content": _ANSWER}
_THOUGHT: Mapping[str, Any] = {
    "role": "assistant",
    "content": f"<think>\n{_REASON}\n</think>\n\n{_ANSWER}",
}
_NAME = "ft_magic_probe"
_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {"place": {"type": "string"}}, "required": []}
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {"name": _NAME, "description": "Probe.", "parameters": _SCHEMA},
}
_CALLED: Mapping[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": _NAME, "arguments": {"place": "Paris"}}}],
}
# How the families of templates write their markers: <|im_end|>, the same with wide bars (DeepSeek), <|turn>,
# <turn|>, <end_of_turn>, </s>.
MARKER = re.compile(
    r"<[|\uff5c][^|\uff5c<>\s]{1,40}[|\uff5c]>|<\|\w{1,40}>|<\w{1,40}\|>|<(?:start|end|begin)_of_\w{1,40}>|</?s>"
)
# More letters than role headers have (`<|start_header_id|>system<|end_header_id|>` leaves 6).
_LEAST_SYSTEM_CHARACTERS = 16


@dataclass(frozen=True)
class Contract:
    """How a template ends and begins a turn, and what of a conversation it keeps.

    Attributes:
        end_of_turn: text of the token that ends an answer; empty where there is none.
        after_answer: all that is written after the last answer.
        before_answer: what is written between the prompt of generation and the answer.
        prompt_end: what the prompt of generation writes after the question.
        turn_starts: texts of the special tokens written before a question.
        written: markers the template writes, special tokens or not.
        probe: the text of a small conversation.
        injected_system: system prompt the template adds by itself; empty where it adds none.
        writes_date: whether it asks for the date, so that the same row renders differently tomorrow.
        extends_prompt: whether the prompt of generation is how the training text begins.
        keeps_reasoning: whether the ``<think>`` block of the last answer is written.
        keeps_old_reasoning: whether those of earlier answers are.
        shows_tools: whether descriptions of tools are written.
        shows_calls: whether calls of tools are written.
    """

    end_of_turn: str = ""
    after_answer: str = ""
    before_answer: str = ""
    prompt_end: str = ""
    turn_starts: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    probe: str = ""
    injected_system: str = ""
    writes_date: bool = False
    extends_prompt: bool = True
    keeps_reasoning: bool = True
    keeps_old_reasoning: bool = True
    shows_tools: bool = True
    shows_calls: bool = True


def contract_of(tokenizer: Tokenizer) -> Contract:
    """Render probes and return what they show; an empty contract where the model has no usable template."""
    chat = tokenizer.chat
    if chat is None:
        return Contract()
    try:
        prompt = chat.render([_ASKED], add_generation_prompt=True)
        whole = chat.render([_ASKED, _SAID])
    except TemplateError:
        return Contract(writes_date="strftime_now" in chat.source)
    before = prompt.partition(_QUESTION)[0]
    after = whole.rpartition(_ANSWER)[2] if _ANSWER in whole else ""
    between = whole[len(prompt) :].partition(_ANSWER)[0] if whole.startswith(prompt) else ""
    return Contract(
        end_of_turn=_end_of_turn(after, tokenizer),
        after_answer=after,
        before_answer=between,
        prompt_end=prompt.rpartition(_QUESTION)[2],
        turn_starts=tuple(text for text in tokenizer.special_texts if text in before),
        written=tuple(dict.fromkeys(MARKER.findall(prompt + whole))),
        probe=whole,
        injected_system=_words(before, tokenizer.special_texts),
        writes_date="strftime_now" in chat.source,
        extends_prompt=whole.startswith(prompt),
        keeps_reasoning=_REASON in _said(chat, [_ASKED, _THOUGHT]),
        keeps_old_reasoning=_REASON in _said(chat, [_ASKED, _THOUGHT, _ASKED, _SAID]),
        shows_tools=_NAME in _said(chat, [_ASKED, _SAID], [_TOOL]),
        shows_calls=_NAME in _said(chat, [_ASKED, _CALLED]),
    )


def _said(
    chat: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the text of a probe; empty where the template refuses it."""
    try:
        return chat.render(messages, tools=tools)
    except TemplateError:
        return ""


def renders_role(chat: ChatTemplate, role: str) -> bool:
    """Return whether the template writes what a turn of this role says."""
    return role_use(chat, role) not in ("refused", "dropped")


def role_use(chat: ChatTemplate, role: str) -> str:
    """Return what a template does with turns of a role: ``own`` turn, ``merged``, ``dropped`` or ``refused``."""
    probe = {"role": role, "content": "ft-magic probe"}
    seen = "refused"
    for messages in ([probe, _ASKED], [_ASKED, probe], [_ASKED, _SAID, probe], [_ASKED, _CALLED, probe]):
        try:
            text = chat.render(messages)
        except TemplateError:
            continue
        if "ft-magic probe" in text:
            between = text.partition("ft-magic probe")[2].partition(_QUESTION)
            return "merged" if messages[0] is probe and between[1] and not between[0].strip() else "own"
        seen = "dropped"
    return seen


def _end_of_turn(after: str, tokenizer: Tokenizer) -> str:
    """Return the token that ends a turn: of the first special tokens in a row the one that stops, else the first."""
    run: list[str] = []
    rest = after
    while found := _first_special(rest, tokenizer.special_texts):
        before, _, rest = rest.partition(found)
        if before and run:
            break
        run.append(found)
    stops = {tokenizer.codec.token_of(token_id) for token_id in tokenizer.stop_ids}
    return next((text for text in run if text in stops), run[0] if run else "")


def _first_special(text: str, specials: tuple[str, ...]) -> str:
    # specials come longest first, so of two that begin at one place the longer is meant
    found = [(text.index(special), -len(special), special) for special in specials if special in text]
    return min(found)[2] if found else ""


def _words(text: str, specials: tuple[str, ...]) -> str:
    """Return the prose before the first question: a system prompt nobody wrote into the data."""
    for special in specials:
        text = text.replace(special, "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip() not in ("", "system", "user")]
    words = " ".join(lines)
    return words if len(words) >= _LEAST_SYSTEM_CHARACTERS else ""
