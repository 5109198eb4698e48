"""Rows as token ids with a mask of what is trained; both grow together, so they cannot drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_magic.template.script import Script, Span, answered, prompt_script, script_of, tools_of

if TYPE_CHECKING:
    from ft_magic.template.tokenizer import Tokenizer

DOUBLE_BOS = "double_bos"  # the text began with two bos tokens; one was taken out
INEXACT = "inexact"  # prompt and answer tokenize differently apart than joined
_TEXT_PROMPT_TOKENS = 32  # of raw text, this much is given for the model to continue


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it.

    Attributes:
        ids: token ids, ``(tokens,)``.
        mask: whether each token is trained, ``(tokens,)``.
        spans: the same as text, before any cut.
        truncated: whether tokens were cut off at the end.
        full_tokens: number of tokens before the cut.
        prompt_tokens: number of tokens before the first trained one.
        lost_tokens: number of trained tokens that were cut off.
        notes: what is unusual (``double_bos``, ``inexact``, ``last_only``, ``unstopped``).
    """

    ids: list[int]
    mask: list[bool]
    spans: tuple[Span, ...] = ()
    truncated: bool = False
    full_tokens: int = 0
    prompt_tokens: int = 0
    lost_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def trained_tokens(self) -> int:
        """Number of trained tokens."""
        return sum(self.mask)

    @property
    def trained_ids(self) -> list[int]:
        """Ids of the trained tokens, in order."""
        return [token_id for token_id, trained in zip(self.ids, self.mask, strict=True) if trained]


class RenderedPair(NamedTuple):
    """Both sides of a pair; the first ``prompt_tokens`` ids are the same in both."""

    chosen: Rendered
    rejected: Rendered
    prompt_tokens: int


def render(
    tokenizer: Tokenizer,
    row: Mapping[str, Any],
    *,
    max_length_tokens: int | None = None,
    train_on: str = "answers",
) -> Rendered:
    """Return a row as ids and mask; of a pair see ``render_pair``, of a prompt row no token is trained.

    Args:
        tokenizer: of the model to train.
        row: a normalised row; a prompt and completion become two turns where the model has a chat template.
        max_length_tokens: longer rows are cut at the end.
        train_on: ``answers`` (all assistant turns), ``last`` (only the last) or ``all`` (every token).

    Raises:
        TemplateError: the template cannot render the row so that answers can be told from prompts.
    """
    return tokenized(tokenizer, [script_of(tokenizer, row, train_on)], max_length_tokens)[0]


def render_pair(
    tokenizer: Tokenizer, row: Mapping[str, Any], *, max_length_tokens: int | None = None
) -> RenderedPair:
    """Return a pair row as two renderings that share their prompt.

    Raises:
        TemplateError: as ``render``.
    """
    chosen, rejected = tokenized(tokenizer, pair_scripts(tokenizer, row), max_length_tokens)
    return RenderedPair(chosen, rejected, min(chosen.prompt_tokens, rejected.prompt_tokens))


def prompt_ids(
    tokenizer: Tokenizer, prompt: str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
) -> list[int]:
    """Return the ids a model reads before it answers.

    Args:
        tokenizer: of the model.
        prompt: a text, a list of messages, or a row, whose last answer is then left out; of a raw text row
            the first 32 tokens.

    Raises:
        TemplateError: the template refuses the messages.
    """
    tools = None
    if isinstance(prompt, Mapping):
        tools = tools_of(prompt)
        if "text" in prompt:
            text = Script((Span(prompt["text"], False),), tokenizer.adds_bos)
            return tokenized(tokenizer, [text], _TEXT_PROMPT_TOKENS)[0].ids
        prompt = _before_last_answer(prompt["messages"]) if "messages" in prompt else prompt["prompt"]
    return tokenized(tokenizer, [prompt_script(tokenizer, prompt, tools=tools)])[0].ids


def pair_scripts(tokenizer: Tokenizer, row: Mapping[str, Any]) -> list[Script]:
    """Return the chosen and the rejected side of a pair row as text."""
    tools = tools_of(row)
    return [answered(tokenizer, row["prompt"], row[side], tools=tools) for side in ("chosen", "rejected")]


def tokenized(
    tokenizer: Tokenizer, scripts: Sequence[Script], max_length_tokens: int | None = None
) -> list[Rendered]:
    """Tokenize many scripts in one batch."""
    texts: dict[str, int] = {}  # each different text once: stops, headers and shared prompts repeat a lot
    for script in scripts:
        for span in script.spans:
            texts.setdefault(span.text, len(texts))
        texts.setdefault(script.text, len(texts))
    encoded = tokenizer.encode_batch(list(texts))
    rendered = []
    for script in scripts:
        parts = [encoded[texts[span.text]] for span in script.spans]
        whole = _joined(tokenizer, script, parts, encoded[texts[script.text]])
        rendered.append(_cut(whole, max_length_tokens))
    return rendered


def _joined(tokenizer: Tokenizer, script: Script, parts: list[list[int]], whole: list[int]) -> Rendered:
    """Join the parts; where the whole text has other ids, take those if the prompts allow it."""
    ids: list[int] = []
    mask: list[bool] = []
    for span, part in zip(script.spans, parts, strict=True):
        ids += part
        mask += [span.trained] * len(part)
    notes = script.notes
    if ids != whole:
        aligned = _mask_of_whole(tokenizer, script, whole)
        if aligned is None:
            notes = (*notes, INEXACT)
        else:
            ids, mask = list(whole), aligned
    bos = tokenizer.bos_token_id
    if script.begins_with_bos and bos is not None and ids[:1] != [bos]:
        ids, mask = [bos, *ids], [all(mask), *mask]
    if bos is not None and ids[:2] == [bos, bos]:
        ids, mask, notes = ids[1:], mask[1:], (*notes, DOUBLE_BOS)
    prompt_tokens = mask.index(True) if True in mask else len(mask)
    return Rendered(ids, mask, script.spans, False, len(ids), prompt_tokens, notes=notes)


def _mask_of_whole(tokenizer: Tokenizer, script: Script, whole: list[int]) -> list[bool] | None:
    """Return the mask on the ids of the whole text; None where a token lies across the border of a span.

    Needed for tokenizers that put a space before every text they are given (SentencePiece models): the parts
    alone would get spaces that neither the whole text nor the prompt at inference has.
    """
    mask: list[bool] = []
    prefixes = list(accumulate(span.text for span in script.spans))
    for span, ids in zip(script.spans, tokenizer.encode_batch(prefixes), strict=True):
        if whole[: len(ids)] != ids or len(ids) < len(mask):
            return None
        mask += [span.trained] * (len(ids) - len(mask))
    return mask


def _cut(rendered: Rendered, max_length_tokens: int | None) -> Rendered:
    if max_length_tokens is None or len(rendered.ids) <= max_length_tokens:
        return rendered
    return replace(
        rendered,
        ids=rendered.ids[:max_length_tokens],
        mask=rendered.mask[:max_length_tokens],
        truncated=True,
        lost_tokens=sum(rendered.mask[max_length_tokens:]),
        prompt_tokens=min(rendered.prompt_tokens, max_length_tokens),
    )


def _before_last_answer(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: answers[-1]] if answers else messages
