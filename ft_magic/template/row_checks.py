"""Checks of rows: what rendering and cutting did to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ft_magic.data.report.finding import Finding
from ft_magic.data.report.finding import finding_of as finding
from ft_magic.template.model_checks import REASONING, training_template
from ft_magic.template.render import DOUBLE_BOS, INEXACT
from ft_magic.template.row_facts import RowFacts, rows_where
from ft_magic.template.script import LAST_ONLY, NOT_TOLD_APART

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.tokenizer import Tokenizer

# Above this share, rows without any trained token are a fault of the set-up, not stray long rows.
_MOST_UNTRAINED_SHARE = 0.01
_LEAST_TRAINED_SHARE = 0.01  # of a row's tokens: below it, a step of 2,000 tokens learns from fewer than 20


def row_findings(tokenizer: Tokenizer, data: Data, facts: Sequence[RowFacts]) -> list[Finding | None]:
    """Return what is off with single rows."""
    failed = [index for index, fact in enumerate(facts) if fact.error]
    why = facts[failed[0]].error if failed and tokenizer.chat is not None else ""
    return [
        finding(
            "not_rendered", "broken", failed if why else [], f"{{n}} cannot be rendered: {why}", "audit.fix()"
        ),
        _apart_finding(tokenizer, facts),
        *_share_findings(data, facts),
        _cut_finding(facts, rows_where(facts, {"truncated": True, "error": ""}), data.signal == "prompt"),
        finding(
            "stop_cut", "warning", rows_where(facts, {"stop_cut": True}),
            "{n} whose answer is trained without its end and its stop token.",
            "a larger max_length, or audit.fix('stop_cut') to leave them out",
        ),
        finding(
            "last_only", "warning", _noted(facts, LAST_ONLY),
            "{n} whose last answer alone is trained: the template changes earlier turns when later ones are added.",
            "audit.fix('last_only') makes a row of each answer",
        ),
        finding(
            "inexact", "info" if tokenizer.chat is None else "warning", _noted(facts, INEXACT),
            "{n} tokenize differently when prompt and answer are joined; trained apart, as at inference.",
            "audit.fix('inexact') moves white space between prompt and answer to where it does not merge",
        ),
        finding(
            "double_bos", "warning", _noted(facts, DOUBLE_BOS),
            "{n} began with two bos tokens; one was taken out, a runtime may not do so.",
            "audit.fix('double_bos') takes it out of the rows; else remove bos_token from the chat template",
        ),
    ]  # fmt: skip


def _apart_finding(tokenizer: Tokenizer, facts: Sequence[RowFacts]) -> Finding | None:
    rows = [index for index, fact in enumerate(facts) if fact.error.startswith(NOT_TOLD_APART)]
    fix = training_template(tokenizer) if rows else ""
    if REASONING in tokenizer.contract.prompt_end:
        fix = f"audit.fix('generation_prompt') begins answers with an empty reasoning block; {fix}"
    message = "{n} whose answer does not begin as the prompt of generation ends: the model would not answer like this."
    return finding("generation_prompt", "broken", rows, message, fix)


def _noted(facts: Sequence[RowFacts], note: str) -> list[int]:
    return [index for index, fact in enumerate(facts) if note in fact.notes]


def _share_findings(data: Data, facts: Sequence[RowFacts]) -> list[Finding | None]:
    if data.signal == "prompt":
        return []
    untrained = rows_where(facts, {"trained": 0, "error": ""})
    too_many = len(untrained) > _MOST_UNTRAINED_SHARE * len(facts)
    low = [
        i for i, f in enumerate(facts) if 0 < f.trained < _LEAST_TRAINED_SHARE * f.tokens and not f.truncated
    ]
    total, trained = sum(facts[i].tokens for i in low), sum(facts[i].trained for i in low)
    return [
        finding(
            "nothing_trained", "broken" if too_many else "warning", untrained,
            "{n} without any trained token: they would give a loss of zero.",
            "audit.fix(), or a larger max_length",
        ),
        finding(
            "low_share", "info", low,
            f"{{n}} train {trained} of {total} tokens, less than one in a hundred.",
            "shorten the prompts, or train_on: all where they are worth learning",
        ),
    ]  # fmt: skip


def _cut_finding(facts: Sequence[RowFacts], cut: list[int], prompts: bool) -> Finding | None:
    fix = "a larger max_length, or audit.fix() to leave them out"
    if not prompts:
        message = "{n} cut at the end: answer or stop token is not learned whole."
        return finding("truncated", "warning", cut, message, fix)
    cut = sorted(cut, key=lambda index: -facts[index].tokens)
    longest = facts[cut[0]].tokens if cut else 0
    message = f"{{n}} whose prompt leaves no room for an answer (the longest has {longest} tokens): left out."
    return finding("truncated", "broken" if len(cut) == len(facts) else "warning", cut, message, fix)
