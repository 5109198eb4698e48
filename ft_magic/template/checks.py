"""The checks of the audit: what each wants, and what it says when a row or the model fails it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.data.finding import Finding
from ft_magic.data.row import contents, said, shortened
from ft_magic.template.render import DOUBLE_BOS, INEXACT
from ft_magic.template.script import LAST_ONLY

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

# name of a check -> what is true when it finds nothing
CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "template": "the model has the chat template its rows need",
        "not_rendered": "the template renders every row",
        "stop_mismatch": "the token that ends an answer stops generation",
        "stop_untrained": "the stop token is trained in every row",
        "nothing_trained": "every row has trained tokens",
        "truncated": "no answer is cut",
        "last_only": "all answers of a conversation are trained",
        "inexact": "prompts tokenize as they will at inference",
        "double_bos": "no text begins with two bos tokens",
        "special_text": "no row contains the text of special tokens",
        "pad_is_stop": "padding is no stop token",
        "default_system": "the template adds no system prompt of its own",
        "date": "the template writes no date",
    }
)
_SHOWN_EXAMPLES = 3
# Above this share, rows without any trained token are a fault of the set-up, not stray long rows.
_MOST_UNTRAINED_SHARE = 0.01


@dataclass(frozen=True)
class RowFacts:
    """What the checks know of one row.

    Attributes:
        tokens: length before any cut, of the longer answer for pairs, of the prompt for prompt rows.
        trained: trained tokens; 0 where one side of a pair has none, and for prompt rows.
        truncated: whether it was cut, or is a prompt that leaves no room for an answer.
        stopped: whether every answer that is not cut ends with a trained stop token.
        notes: what rendering noted.
        error: why it could not be rendered, else empty.
    """

    tokens: int = 0
    trained: int = 0
    truncated: bool = False
    stopped: bool = True
    notes: tuple[str, ...] = ()
    error: str = ""


def findings_of(tokenizer: Tokenizer, data: Data, facts: Sequence[RowFacts]) -> tuple[Finding, ...]:
    """Return what is off, the worst first."""
    found = [
        *_template_findings(tokenizer, data),
        *_stop_findings(tokenizer, data, facts),
        *_row_findings(tokenizer, data, facts),
        _special_text(tokenizer, data),
    ]
    order = ("broken", "warning", "info")
    return tuple(sorted((f for f in found if f is not None), key=lambda finding: order.index(finding.level)))


def _finding(name: str, level: str, rows: Sequence[int], message: str, fix: str = "") -> Finding | None:
    if not rows:
        return None
    text = message.replace("{n}", f"{len(rows)} row{'s' if len(rows) > 1 else ''}")
    return Finding(name, level, len(rows), text, tuple(rows[:_SHOWN_EXAMPLES]), fix)


def _rows_where(facts: Sequence[RowFacts], wanted: Mapping[str, Any]) -> list[int]:
    return [i for i, fact in enumerate(facts) if all(getattr(fact, k) == v for k, v in wanted.items())]


def _noted(facts: Sequence[RowFacts], note: str) -> list[int]:
    return [index for index, fact in enumerate(facts) if note in fact.notes]


def _template_findings(tokenizer: Tokenizer, data: Data) -> list[Finding | None]:
    """Return what concerns the template as such; nothing for raw text, which needs none."""
    if data.signal == "text":
        return []
    every = range(len(data))
    if tokenizer.chat is None:
        chats = [index for index, row in enumerate(data.rows) if any(isinstance(v, list) for v in said(row))]
        plain = [index for index in every if index not in set(chats)]
        return [
            _finding(
                "template", "broken", chats,
                "{n} of conversations, but the model has no chat template (a base model).",
                "use the instruct version of the model, or rows with prompt and completion",
            ),
            _finding(
                "template", "warning", plain,
                "{n} without a chat template: prompt, answer and eos are joined as they are.",
                "end prompts with a clear mark (a newline, 'Answer:'), and write the same mark at inference",
            ),
        ]  # fmt: skip
    contract = tokenizer.contract
    silent = (
        [i for i, row in enumerate(data.rows) if not _has_system(row)] if contract.injected_system else []
    )
    system = shortened(contract.injected_system, 80)
    own = f"{{n}} without a system turn get the template's own: '{system}'."
    return [
        _finding("default_system", "info", silent, own),
        _finding(
            "date", "info", list(every) if contract.writes_date else [],
            "{n} carry today's date, which the template writes: tomorrow they tokenize differently.",
        ),
    ]  # fmt: skip


def _has_system(row: Mapping[str, Any]) -> bool:
    turns = row.get("messages") or row.get("prompt")
    return isinstance(turns, list) and any(turn["role"] == "system" for turn in turns)


def _stop_findings(tokenizer: Tokenizer, data: Data, facts: Sequence[RowFacts]) -> list[Finding | None]:
    stops = tokenizer.stop_ids
    names = ", ".join(tokenizer.codec.token_of(token_id) for token_id in stops)
    every = list(range(len(data)))
    found: list[Finding | None] = []
    mismatch = _mismatch(tokenizer, names) if data.signal != "text" and tokenizer.chat is not None else None
    if mismatch is not None:
        found.append(_finding("stop_mismatch", "broken", every, *mismatch))
    elif not stops:
        found.append(
            _finding(
                "stop_mismatch", "broken", every, "{n} end without a stop token: the tokenizer has no eos.",
                "name eos_token in tokenizer_config.json",
            )
        )  # fmt: skip
    else:
        unstopped = _rows_where(facts, {"stopped": False, "error": ""})
        found.append(
            _finding(
                "stop_untrained", "broken", unstopped,
                f"{{n}} whose answer does not end with a trained stop token ({names}): it will not stop.",
                "repair the chat template so that it writes the stop token after each answer",
            )
        )  # fmt: skip
    if tokenizer.pad_token_id in stops and tokenizer.pad_token_id is not None:
        message = f"Padding is the stop token {names}: labels must be masked by place, as here, never by id."
        found.append(Finding("pad_is_stop", "info", len(data), message))
    return found


def _mismatch(tokenizer: Tokenizer, names: str) -> tuple[str, str] | None:
    """Return message and fix where the template ends a turn with a token that does not stop generation."""
    contract = tokenizer.contract
    end, stops = contract.end_of_turn, [tokenizer.codec.token_of(token_id) for token_id in tokenizer.stop_ids]
    eos = tokenizer.named_tokens.get("eos_token", "")
    if not end or end in stops:
        generation = [tokenizer.codec.token_of(token_id) for token_id in tokenizer.generation_stop_ids]
        if end and generation and end not in generation:
            return (
                f"{{n}} end with '{end}', but generation_config.json stops only at {', '.join(generation)}.",
                f"add the id of '{end}' to eos_token_id in generation_config.json",
            )
        return None
    role = ", which begins a turn" if eos in contract.turn_starts else ""
    return (
        f"{{n}} end with '{end}', but generation stops at {names or 'nothing'}{role}: it will not stop.",
        f"set eos_token to '{end}' in tokenizer_config.json and eos_token_id in generation_config.json",
    )


def _row_findings(tokenizer: Tokenizer, data: Data, facts: Sequence[RowFacts]) -> list[Finding | None]:
    failed = [index for index, fact in enumerate(facts) if fact.error]
    why = facts[failed[0]].error if failed and tokenizer.chat is not None else ""
    prompts = data.signal == "prompt"
    untrained = [] if prompts else _rows_where(facts, {"trained": 0, "error": ""})
    too_many = len(untrained) > _MOST_UNTRAINED_SHARE * len(facts)
    cut = _rows_where(facts, {"truncated": True, "error": ""})
    return [
        _finding(
            "not_rendered", "broken", failed if why else [], f"{{n}} cannot be rendered: {why}", "audit.fix()"
        ),
        _finding(
            "nothing_trained", "broken" if too_many else "warning", untrained,
            "{n} without any trained token: they would give a loss of zero.",
            "audit.fix(), or a larger max_length",
        ),
        _cut_finding(facts, cut, prompts),
        _finding(
            "last_only", "warning", _noted(facts, LAST_ONLY),
            "{n} train only their last answer: the template changes earlier turns when later ones are added.",
            "split conversations so that each answer ends a row",
        ),
        _finding(
            "inexact", "info" if tokenizer.chat is None else "warning", _noted(facts, INEXACT),
            "{n} tokenize differently when prompt and answer are joined; trained apart, as at inference.",
        ),
        _finding(
            "double_bos", "warning", _noted(facts, DOUBLE_BOS),
            "{n} began with two bos tokens; one was taken out, a runtime may not do so.",
            "remove the bos token from the chat template or from the rows",
        ),
    ]  # fmt: skip


def _cut_finding(facts: Sequence[RowFacts], cut: list[int], prompts: bool) -> Finding | None:
    fix = "a larger max_length, or audit.fix() to leave them out"
    if not prompts:
        message = "{n} cut at the end: answer or stop token is not learned whole."
        return _finding("truncated", "warning", cut, message, fix)
    cut = sorted(cut, key=lambda index: -facts[index].tokens)
    longest = facts[cut[0]].tokens if cut else 0
    message = f"{{n}} whose prompt leaves no room for an answer (the longest has {longest} tokens): left out."
    return _finding("truncated", "broken" if len(cut) == len(facts) else "warning", cut, message, fix)


def _special_text(tokenizer: Tokenizer, data: Data) -> Finding | None:
    if not tokenizer.special_texts:
        return None
    pattern = re.compile("|".join(map(re.escape, tokenizer.special_texts)))
    rows = [
        index for index, row in enumerate(data.rows) if any(pattern.search(text) for text in contents(row))
    ]
    message = (
        "{n} contain the text of a special token: it is read as the token itself and can end or fake a turn."
    )
    return _finding("special_text", "warning", rows, message, "remove or rewrite it in the rows")
