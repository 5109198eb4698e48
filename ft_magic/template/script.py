"""What a row says to the model, as text in spans that are trained or not. No tokens yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_magic.errors import TemplateError, nearest
from ft_magic.template.probe import renders_role

if TYPE_CHECKING:
    from ft_magic.template.chat import ChatTemplate
    from ft_magic.template.tokenizer import Tokenizer

TRAIN_ON = ("answers", "all", "last")
LAST_ONLY = "last_only"  # earlier answers could not be trained, because the template rewrites them later
UNSTOPPED = "unstopped"  # the template writes no token after an answer that could stop it


@dataclass(frozen=True)
class Span:
    """A stretch of text that is trained or not."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Script:
    """A row as text.

    Attributes:
        spans: in order; joined they are the whole text.
        begins_with_bos: whether the bos token is put before the text (where no template writes it).
        notes: ``LAST_ONLY``, ``UNSTOPPED``, where they apply.
    """

    spans: tuple[Span, ...]
    begins_with_bos: bool = False
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text, without a bos token that is put before it."""
        return "".join(span.text for span in self.spans)


class _RewrittenError(Exception):
    """Rendering more turns changed the text of earlier ones."""


def script_of(tokenizer: Tokenizer, row: Mapping[str, Any], train_on: str = "answers") -> Script:
    """Return what a text, demo, label or prompt row says to the model; of a prompt row nothing is trained.

    Raises:
        TemplateError: the template cannot render the row, or not so that answers can be told from prompts.
    """
    if train_on not in TRAIN_ON:
        raise TemplateError(
            f"train_on is '{train_on}', which does not exist.{nearest(train_on, TRAIN_ON)}",
            f"Choose one of: {', '.join(TRAIN_ON)}.",
        )
    if "text" in row:
        return Script((Span(row["text"] + _eos(tokenizer), True),), tokenizer.adds_bos)
    if "messages" in row:
        return conversation(tokenizer, row["messages"], 0, train_on)
    if "completion" in row:
        return answered(tokenizer, row["prompt"], row["completion"], train_on)
    return prompt_script(tokenizer, row["prompt"], every_role=True)


def answered(
    tokenizer: Tokenizer,
    prompt: str | Sequence[Mapping[str, Any]],
    answer: str | Sequence[Mapping[str, Any]],
    train_on: str = "answers",
) -> Script:
    """Return a prompt with one answer, both as text or as turns; only turns of the answer are trained."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return exchange(tokenizer, prompt, answer, train_on)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    return conversation(tokenizer, [*turns, *said], len(turns), train_on)


def exchange(tokenizer: Tokenizer, prompt: str, answer: str, train_on: str = "answers") -> Script:
    """Return a prompt and its answer: two turns of the template, or joined as they are without one."""
    if tokenizer.chat is not None:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return conversation(tokenizer, turns, 0, train_on)
    spans = (Span(prompt, train_on == "all"), Span(answer + _eos(tokenizer), True))
    return Script(spans, _puts_bos(tokenizer, prompt))


def prompt_script(
    tokenizer: Tokenizer, prompt: str | Sequence[Mapping[str, Any]], *, every_role: bool = False
) -> Script:
    """Return what the model reads before it answers.

    Raises:
        TemplateError: the template refuses the turns or, with ``every_role``, leaves out those of some role.
    """
    if isinstance(prompt, str):
        if tokenizer.chat is None:
            return Script((Span(prompt, False),), _puts_bos(tokenizer, prompt))
        prompt = [{"role": "user", "content": prompt}]
    chat = _chat(tokenizer)
    text = chat.render(prompt, add_generation_prompt=True)
    if every_role:
        _check_all_said(chat, prompt, text)
    return Script((Span(text, False),))


def conversation(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], first: int = 0, train_on: str = "answers"
) -> Script:
    """Return a conversation with its answers as trained spans.

    Args:
        tokenizer: gives template and stop tokens.
        messages: the turns; those after the last answer are left out, nothing in them could be trained.
        first: index of the first turn that may be trained (for pairs: where the prompt ends).
        train_on: ``answers``, ``last`` or ``all``.

    Raises:
        TemplateError: see ``script_of``.
    """
    chat = _chat(tokenizer)
    answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant" and i >= first]
    if not answers:
        return Script((Span(chat.render(messages), train_on == "all"),))
    notes: tuple[str, ...] = ()
    wanted = answers[-1:] if train_on == "last" else answers
    try:
        spans, stopped = _grow(tokenizer, chat, messages, wanted)
    except _RewrittenError as error:
        if len(wanted) == 1:
            raise _not_told_apart(str(error)) from error
        notes = (LAST_ONLY,)
        try:
            spans, stopped = _grow(tokenizer, chat, messages, answers[-1:])
        except _RewrittenError as again:
            raise _not_told_apart(str(again)) from again
    _check_all_said(chat, messages[: answers[-1] + 1], "".join(span.text for span in spans))
    if train_on == "all":
        spans = [Span(span.text, True) for span in spans]
    return Script(
        tuple(span for span in spans if span.text), False, notes if stopped else (*notes, UNSTOPPED)
    )


def _grow(
    tokenizer: Tokenizer, chat: ChatTemplate, messages: Sequence[Mapping[str, Any]], answers: list[int]
) -> tuple[list[Span], bool]:
    """Add, answer by answer, what stands before it (not trained) and the answer with its stop (trained).

    An answer is what rendering with it adds to the prompt of generation: at inference the model sees exactly
    the text before it. Returns the spans and whether every answer ends with a stop token.
    """
    spans: list[Span] = []
    done, rest, stopped = "", "", True
    for index in answers:
        prompt = chat.render(messages[:index], add_generation_prompt=True)
        whole = chat.render(messages[: index + 1])
        if not prompt.startswith(done):
            raise _RewrittenError("it changes earlier turns when later ones are added")
        if not whole.startswith(prompt):
            raise _RewrittenError(
                "its generation prompt is not how the answer begins in the full conversation"
            )
        answer = whole[len(prompt) :]
        end, found = _answer_end(tokenizer, answer, str(messages[index]["content"]))
        spans += [Span(prompt[len(done) :], False), Span(answer[:end], True)]
        done, rest, stopped = prompt + answer[:end], answer[end:], stopped and found
    return [*spans, Span(rest, False)], stopped


def _answer_end(tokenizer: Tokenizer, answer: str, content: str) -> tuple[int, bool]:
    """Return where an answer ends, its stop token included, and whether there is one.

    The stop is the first one after the content: content may itself contain the text of a stop token, and some
    templates (Phi-3) write a second one at the end of the conversation.
    """
    said = content.strip()
    at = answer.find(said) if said else -1
    stops = tokenizer.stop_texts
    if at >= 0:
        start = at + len(said)
        first = min(((i, -len(s)) for s in stops if (i := answer.find(s, start)) >= 0), default=None)
        return (len(answer), False) if first is None else (first[0] - first[1], True)
    last = max((i + len(s) for s in stops if (i := answer.rfind(s)) >= 0), default=None)
    return (len(answer), False) if last is None else (last, True)


def _check_all_said(chat: ChatTemplate, messages: Sequence[Mapping[str, Any]], text: str) -> None:
    """Check that no role was left out by the template.

    Raises:
        TemplateError: a turn's role is not rendered.
    """
    for message in messages:
        said = str(message["content"]).strip()
        if (
            message["role"] == "assistant"
            or said in text
            or json.dumps(said, ensure_ascii=False)[1:-1] in text
        ):
            continue
        if not renders_role(chat, message["role"]):
            raise TemplateError(
                f"The model's chat template leaves out turns of the role '{message['role']}'.",
                "Put their text into the user's turns, or choose a model whose template knows the role.",
            )


def _not_told_apart(why: str) -> TemplateError:
    return TemplateError(
        f"The model's chat template does not tell answers from prompts: {why}.",
        "Put a training version of the template into chat_template.jinja of the model's folder.",
    )


def _chat(tokenizer: Tokenizer) -> ChatTemplate:
    if tokenizer.chat is None:
        raise TemplateError(
            f"{tokenizer.name} has no chat template (a base model), so it cannot take conversations.",
            "Use its instruct version, or data with prompt and completion, or raw text.",
        )
    return tokenizer.chat


def _eos(tokenizer: Tokenizer) -> str:
    return tokenizer.named_tokens.get("eos_token", "")


def _puts_bos(tokenizer: Tokenizer, text: str) -> bool:
    return tokenizer.adds_bos and not text.startswith(tokenizer.named_tokens.get("bos_token", "\0"))
