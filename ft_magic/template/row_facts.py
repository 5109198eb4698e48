"""What the checks know of a row: its tokens, what of them is trained, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_magic.errors import TemplateError
from ft_magic.template.render import Rendered, pair_scripts, tokenized
from ft_magic.template.script import UNSTOPPED, Script, script_of

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer


@dataclass(frozen=True)
class RowFacts:
    """What the checks know of one row.

    Attributes:
        tokens: length before any cut, of the longer answer for pairs, of the prompt for prompt rows.
        trained: trained tokens; 0 where one side of a pair has none, and for prompt rows.
        truncated: whether it was cut, or is a prompt that leaves no room for an answer.
        stop_cut: whether the cut took the end of an answer whose beginning is trained.
        stopped: whether every answer that is not cut ends with a trained stop token.
        notes: what rendering noted.
        error: why it could not be rendered, else empty.
    """

    tokens: int = 0
    trained: int = 0
    truncated: bool = False
    stop_cut: bool = False
    stopped: bool = True
    notes: tuple[str, ...] = ()
    error: str = ""


def rows_where(facts: Sequence[RowFacts], wanted: Mapping[str, Any]) -> list[int]:
    """Return the indices of the rows whose facts are all as wanted."""
    return [i for i, fact in enumerate(facts) if all(getattr(fact, k) == v for k, v in wanted.items())]


def facts_of(
    tokenizer: Tokenizer, rows: Data, max_length_tokens: int | None = None, train_on: str = "answers"
) -> list[RowFacts]:
    """Return the facts of some rows, all tokenized in one batch."""
    prompts = rows.signal == "prompt"
    scripts: list[Script] = []
    sides: list[int | TemplateError] = []  # number of scripts of each row, or why it has none
    make: Callable[[Any], Sequence[Script]] = (
        (lambda row: pair_scripts(tokenizer, row))
        if rows.signal == "pair"
        else (lambda row: [script_of(tokenizer, row, train_on)])
    )
    for row in rows.rows:
        try:
            made = make(row)
        except TemplateError as error:
            sides.append(error)
        else:
            scripts += made
            sides.append(len(made))
    rendered = iter(tokenized(tokenizer, scripts, max_length_tokens))
    return [
        RowFacts(error=side.problem)
        if isinstance(side, TemplateError)
        else _prompt_fact(next(rendered), max_length_tokens)
        if prompts
        else _fact(tokenizer, [next(rendered) for _ in range(side)])
        for side in sides
    ]


def _fact(tokenizer: Tokenizer, sides: list[Rendered]) -> RowFacts:
    trained = [side.trained_tokens for side in sides]
    return RowFacts(
        tokens=max(side.full_tokens for side in sides),
        trained=max(trained) if all(trained) else 0,
        truncated=any(side.truncated for side in sides),
        stop_cut=any(side.lost_tokens and side.trained_tokens for side in sides),
        stopped=all(_stopped(tokenizer, side) for side in sides),
        notes=tuple({note for side in sides for note in side.notes}),
    )


def _prompt_fact(prompt: Rendered, max_length_tokens: int | None) -> RowFacts:
    """Return the facts of a prompt row; it counts as cut where no token is left for an answer."""
    tokens = prompt.full_tokens
    full = max_length_tokens is not None and tokens >= max_length_tokens
    return RowFacts(tokens=tokens, truncated=full, notes=prompt.notes)


def _stopped(tokenizer: Tokenizer, rendered: Rendered) -> bool:
    """Return whether every run of trained tokens ends with a stop token; the cut one counts as truncated."""
    if UNSTOPPED in rendered.notes:
        return False
    following = [*rendered.mask[1:], False]
    places = zip(rendered.ids, rendered.mask, following, strict=True)
    ends = [token_id for token_id, trained, after in places if trained and not after]
    if rendered.truncated and rendered.mask and rendered.mask[-1]:
        ends = ends[:-1]
    if all(rendered.mask):  # every token is trained, so the stop need not be the last
        return rendered.truncated or any(token_id in tokenizer.stop_ids for token_id in rendered.ids)
    return all(token_id in tokenizer.stop_ids for token_id in ends)
