"""What a row says to the model, as text in spans that are trained or not. No tokens yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ft_magic.errors import TemplateError, nearest
from ft_magic.template.probe import renders_role

if TYPE_CHECKING:
    from ft_magic.template.chat import ChatTemplate
    from ft_magic.template.tokenizer import Tokenizer

Turns = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None

TRAIN_ON = ("answers", "all", "last")
LAST_ONLY = "last_only"  # earlier answers could not be trained, because the template rewrites them later
NOT_TOLD_APART = "The model's chat template does not tell answers from prompts"
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
    check_train_on(train_on)
    if "text" in row:
        return Script((Span(row["text"] + _eos(tokenizer), True),), tokenizer.adds_bos)
    tools = tools_of(row)
    if "messages" in row:
        return conversation(tokenizer, row["messages"], 0, train_on, tools)
    if "completion" in row:
        return answered(tokenizer, row["prompt"], row["completion"], train_on, tools)
    return prompt_script(tokenizer, row["prompt"], every_role=True, tools=tools)


def check_train_on(train_on: str) -> None:
    """Check that there is such a choice of what carries loss.

    Raises:
        TemplateError: there is none of this name.
    """
    if train_on not in TRAIN_ON:
        raise TemplateError(
            f"train_on is '{train_on}', which does not exist.{nearest(train_on, TRAIN_ON)}",
            f"Choose one of: {', '.join(TRAIN_ON)}.",
        )


def answered(
    tokenizer: Tokenizer,
    prompt: str | Turns,
    answer: str | Turns,
    train_on: str = "answers",
    tools: Tools = None,
) -> Script:
    """Return a prompt with one answer, both as text or as turns; only turns of the answer are trained."""
    if tokenizer.chat is None and isinstance(prompt, str) and isinstance(answer, str):
        spans = (Span(prompt, train_on == "all"), Span(answer + _eos(tokenizer), True))
        return Script(spans, _puts_bos(tokenizer, prompt))
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    return conversation(tokenizer, [*turns, *said], len(turns), train_on, tools)


def prompt_script(
    tokenizer: Tokenizer, prompt: str | Turns, *, every_role: bool = False, tools: Tools = None
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
    text = chat.render(_unmarked(prompt), add_generation_prompt=True, tools=tools)
    if every_role:
        _check_all_said(chat, prompt, text)
    return Script((Span(text, False),))


def conversation(
    tokenizer: Tokenizer,
    messages: Turns,
    first: int = 0,
    train_on: str = "answers",
    tools: Tools = None,
) -> Script:
    """Return a conversation with its answers as trained spans.

    Args:
        tokenizer: gives template and stop tokens.
        messages: the turns; those after the last trained answer are left out, nothing in them could be
            trained. An answer with ``train: False`` is read, not trained, whatever ``train_on`` says.
        first: index of the first turn that may be trained (for pairs: where the prompt ends).
        train_on: ``answers``, ``last`` or ``all``.
        tools: JSON schemas of functions the model may call.

    Raises:
        TemplateError: see ``script_of``.
    """
    chat = _chat(tokenizer)
    said = partial(chat.render, tools=tools)
    turns = _unmarked(messages)
    answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant" and i >= first]
    chosen = answers[-1:] if train_on == "last" else answers
    trained = {i for i in chosen if messages[i].get("train", True)}
    stops_at = answers if train_on == "all" else sorted(trained)
    if not stops_at:
        return Script((Span(said(turns), train_on == "all"),))
    notes: tuple[str, ...] = ()
    try:
        parts, stopped = _grow(tokenizer, said, turns, stops_at)
    except _RewrittenError as error:
        if len(stops_at) == 1:
            raise _not_told_apart(str(error)) from error
        notes = (LAST_ONLY,)
        try:
            parts, stopped = _grow(tokenizer, said, turns, stops_at[-1:])
        except _RewrittenError as again:
            raise _not_told_apart(str(again)) from again
    _check_all_said(chat, messages[: stops_at[-1] + 1], "".join(text for text, _ in parts))
    # Where earlier answers cannot be told from the text around them, one that must not be trained forbids all.
    around = train_on == "all" and (not notes or trained == set(answers))
    spans = [Span(text, around if index is None else index in trained) for text, index in parts if text]
    return Script(tuple(spans), False, notes if stopped else (*notes, UNSTOPPED))


def tools_of(row: Mapping[str, Any]) -> Tools:
    """Return the tools of a row; a column of that name that holds anything else is for reward functions."""
    tools = row.get("tools")
    described = isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)
    return tools if described else None


def _unmarked(messages: Turns) -> Turns:
    """Return the turns without ``train``, which is ours and which no template knows."""
    if not any("train" in turn for turn in messages):
        return messages
    return [{key: value for key, value in turn.items() if key != "train"} for turn in messages]


def _grow(
    tokenizer: Tokenizer, said: Callable[..., str], messages: Turns, answers: list[int]
) -> tuple[list[tuple[str, int | None]], bool]:
    """Add, answer by answer, what stands before it and the answer with its stop.

    An answer is what rendering with it adds to the prompt of generation: at inference the model sees exactly
    the text before it. Returns texts, each with the index of the answer it is, and whether every answer ends
    with a stop token.
    """
    parts: list[tuple[str, int | None]] = []
    done, rest, stopped = "", "", True
    for index in answers:
        prompt = said(messages[:index], add_generation_prompt=True)
        whole = said(messages[: index + 1])
        if not prompt.startswith(done):
            raise _RewrittenError("it changes earlier turns when later ones are added")
        if not whole.startswith(prompt):
            raise _RewrittenError(
                "its generation prompt is not how the answer begins in the full conversation"
            )
        answer = whole[len(prompt) :]
        end, found = _answer_end(tokenizer, answer, content_of(messages[index]))
        parts += [(prompt[len(done) :], None), (answer[:end], index)]
        done, rest, stopped = prompt + answer[:end], answer[end:], stopped and found
    return [*parts, (rest, None)], stopped


def _answer_end(tokenizer: Tokenizer, answer: str, content: str) -> tuple[int, bool]:
    """Return where an answer ends, its stop token included, and whether there is one.

    What the template writes after an answer is known from a probe; where this answer ends otherwise (calls of
    tools), the stop is the first one after the content: content may itself contain the text of a stop token,
    and some templates (Phi-3) write a second one at the end of the conversation.
    """
    stops, tail = tokenizer.stop_texts, tokenizer.contract.after_answer
    if tail and answer.endswith(tail):
        start = len(answer) - len(tail)
    else:
        at = answer.find(content.strip()) if content.strip() else -1
        start = at + len(content.strip()) if at >= 0 else -1
    if start >= 0:
        first = min(((i, -len(s)) for s in stops if (i := answer.find(s, start)) >= 0), default=None)
        return (len(answer), False) if first is None else (first[0] - first[1], True)
    last = max((i + len(s) for s in stops if (i := answer.rfind(s)) >= 0), default=None)
    return (len(answer), False) if last is None else (last, True)


def content_of(message: Mapping[str, Any]) -> str:
    """Return what a turn says; empty for a turn that only calls tools."""
    content = message.get("content")
    return "" if content is None else str(content)


def _check_all_said(chat: ChatTemplate, messages: Turns, text: str) -> None:
    """Check that no role was left out by the template.

    Raises:
        TemplateError: a turn's role is not rendered.
    """
    for message in messages:
        if message["role"] == "assistant":
            continue
        said = content_of(message).strip()
        if said in text or json.dumps(said, ensure_ascii=False)[1:-1] in text:
            continue
        if not renders_role(chat, message["role"]):
            raise TemplateError(
                f"The model's chat template leaves out turns of the role '{message['role']}'.",
                "Put their text into the user's turns, or choose a model whose template knows the role.",
            )


def _not_told_apart(why: str) -> TemplateError:
    return TemplateError(
        f"{NOT_TOLD_APART}: {why}.",
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
