"""What a chat template does, learned by rendering small conversations with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft_magic.errors import TemplateError

if TYPE_CHECKING:
    from ft_magic.template.chat import ChatTemplate
    from ft_magic.template.tokenizer import Tokenizer

_QUESTION, _ANSWER = "ft-magic question", "ft-magic answer"
# More letters than role headers have (`<|start_header_id|>system<|end_header_id|>` leaves 6).
_LEAST_SYSTEM_CHARACTERS = 16


@dataclass(frozen=True)
class Contract:
    """How a template ends and begins a turn.

    Attributes:
        end_of_turn: text of the first special token after an answer; empty where there is none.
        turn_starts: texts of the special tokens written before a question.
        injected_system: system prompt the template adds by itself; empty where it adds none.
        writes_date: whether it asks for the date, so that the same row renders differently tomorrow.
        extends_prompt: whether the prompt of generation is how the training text begins.
    """

    end_of_turn: str = ""
    turn_starts: tuple[str, ...] = ()
    injected_system: str = ""
    writes_date: bool = False
    extends_prompt: bool = True


def contract_of(tokenizer: Tokenizer) -> Contract:
    """Render probes and return what they show; an empty contract where the model has no usable template."""
    chat = tokenizer.chat
    if chat is None:
        return Contract()
    question = [{"role": "user", "content": _QUESTION}]
    try:
        prompt = chat.render(question, add_generation_prompt=True)
        whole = chat.render([*question, {"role": "assistant", "content": _ANSWER}])
    except TemplateError:
        return Contract(writes_date="strftime_now" in chat.source)
    before = prompt.partition(_QUESTION)[0]
    after = whole.rpartition(_ANSWER)[2] if _ANSWER in whole else ""
    return Contract(
        end_of_turn=_first_special(after, tokenizer.special_texts),
        turn_starts=tuple(text for text in tokenizer.special_texts if text in before),
        injected_system=_words(before, tokenizer.special_texts),
        writes_date="strftime_now" in chat.source,
        extends_prompt=whole.startswith(prompt),
    )


def renders_role(chat: ChatTemplate, role: str) -> bool:
    """Return whether the template writes what a turn of this role says."""
    probe = {"role": role, "content": "ft-magic probe"}
    user = {"role": "user", "content": _QUESTION}
    for messages in ([probe, user], [user, probe], [user, {"role": "assistant", "content": _ANSWER}, probe]):
        try:
            if "ft-magic probe" in chat.render(messages):
                return True
        except TemplateError:
            continue
    return False


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
