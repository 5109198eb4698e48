"""The checks of the audit: one row each, and all their findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ft_magic.data.report.finding import Finding

if TYPE_CHECKING:
    from ft_magic.data.data import Data
    from ft_magic.template.row_facts import RowFacts
    from ft_magic.template.tokenizer import Tokenizer


@dataclass(frozen=True)
class Check:
    """One thing the audit looks at.

    Attributes:
        name: of the check, of its findings, and of its fix where there is one.
        wants: what is true when it finds nothing.
        why: why it matters.
    """

    name: str
    wants: str
    why: str


_ROWS = (
    Check(
        "template", "the model has the chat template its rows need",
        "Without one, nothing says where a turn ends, in training or at inference.",
    ),
    Check(
        "not_rendered", "the template renders every row",
        "A row that cannot be rendered is not trained at all.",
    ),
    Check(
        "system_role", "the template has a place for system turns",
        "A system prompt that is refused loses the row, one that is dropped was never read.",
    ),
    Check(
        "unknown_role", "the template knows every role in the rows",
        "Turns of a role the model never saw are refused, dropped, or read under a header it does not know.",
    ),
    Check(
        "tools", "tools, their calls and their results are written",
        "A model cannot learn to call a tool it is not shown, and a call that is not written trains an empty answer.",
    ),
    Check(
        "generation_prompt", "the prompt of generation is how the training text goes on",
        "At inference the model continues the prompt: training must continue the very same text.",
    ),
    Check(
        "stop_mismatch", "the token that ends an answer stops generation",
        "A model that ends its answers with another token than the one runtimes wait for talks on for ever.",
    ),
    Check(
        "stop_untrained", "the stop token is trained in every row",
        "A stop token that is never trained is never written.",
    ),
    Check(
        "stop_cut", "no answer lost its stop token to max_length",
        "Answers that break off teach the model to go on without an end.",
    ),
    Check(
        "export_stop", "files for other runtimes carry the same stop token",
        "A GGUF file names one eos token: a runtime that reads only that does not know the others.",
    ),
    Check(
        "split_special", "the tokenizer knows each marker the template writes as one token",
        "A marker in pieces costs tokens, merges with the text beside it and cannot stop generation.",
    ),
    Check(
        "nothing_trained", "every row has trained tokens",
        "A row without trained tokens costs time and teaches nothing.",
    ),
    Check(
        "truncated", "no answer is cut",
        "Of a cut answer the end is not learned, of a cut prompt the answer is not.",
    ),
    Check(
        "low_share", "prompts are not a hundred times longer than answers",
        "Time and memory go into reading, and the loss of such rows rests on a few tokens.",
    ),
    Check(
        "last_only", "all answers of a conversation are trained",
        "The template shows earlier answers otherwise than the model wrote them, so they cannot be learned in place.",
    ),
    Check(
        "reasoning", "reasoning (<think>) in the rows is written",
        "Reasoning that the template takes out is never trained.",
    ),
    Check(
        "inexact", "prompts tokenize as they will at inference",
        "Where prompt and answer merge into one token, a runtime cannot stop between them.",
    ),
    Check(
        "double_bos", "no text begins with two bos tokens",
        "Two bos tokens are a text the model never saw, and answers get worse.",
    ),
    Check(
        "foreign_markup", "no row carries the markup of another family of models",
        "Markup inside a turn is trained as words: the model learns to write it, or to wait for it.",
    ),
    Check(
        "special_text", "no row contains the text of special tokens",
        "It is read as the token itself, so it can end or fake a turn.",
    ),
    Check(
        "pad_is_stop", "padding is no stop token",
        "Labels that are masked wherever the padding token stands lose the stop token too.",
    ),
    Check(
        "default_system", "the template adds no system prompt of its own",
        "The model learns under that prompt: a runtime that leaves it out gives other answers.",
    ),
    Check(
        "date", "the template writes no date",
        "The same row gives other tokens tomorrow.",
    ),
)  # fmt: skip
CHECKS: Mapping[str, Check] = MappingProxyType({check.name: check for check in _ROWS})


def findings_of(tokenizer: Tokenizer, data: Data, facts: Sequence[RowFacts]) -> tuple[Finding, ...]:
    """Return what is off, the worst first."""
    from ft_magic.template.markup import foreign_markup, special_text
    from ft_magic.template.model_checks import model_findings, stop_findings
    from ft_magic.template.role_checks import role_findings
    from ft_magic.template.row_checks import row_findings

    found = [
        *model_findings(tokenizer, data),
        *role_findings(tokenizer, data),
        *stop_findings(tokenizer, data, facts),
        *row_findings(tokenizer, data, facts),
        foreign_markup(tokenizer, data),
        special_text(tokenizer, data),
    ]
    order = ("broken", "warning", "info")
    return tuple(sorted((f for f in found if f is not None), key=lambda finding: order.index(finding.level)))
