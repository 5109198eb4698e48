"""check_template: is every row supervised as you think? All rows, not a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.data.data import Data, frame_of
from ft_magic.data.load import load_data
from ft_magic.data.report.finding import Finding, finding_line
from ft_magic.errors import TemplateError
from ft_magic.progress import Progress, silent
from ft_magic.template.checks import CHECKS, findings_of
from ft_magic.template.render import Rendered, RenderedPair, render, render_pair
from ft_magic.template.row_facts import RowFacts, facts_of
from ft_magic.template.script import check_train_on
from ft_magic.template.subject import PROBE, tokenizer_of
from ft_magic.template.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ft_magic.template.preview import Preview
    from ft_magic.template.proposal import Proposal

_BATCH_ROWS = 2048  # tokenized together: enough to keep all cores busy, little enough to show progress


@dataclass(frozen=True, repr=False)
class Audit:
    """What was found when every row was rendered and tokenized.

    Attributes:
        tokenizer: the one used.
        data: the rows looked at.
        verdict: ``ok``, ``warning`` or ``broken``.
        findings: what is off, the worst first.
        lengths: tokens of each row before any cut, of the longer answer for pairs, of the prompt for prompts.
        trained: trained tokens of each row; 0 for prompts, which the model answers itself.
        max_length_tokens: where rows were cut, None for nowhere.
        train_on: ``answers``, ``last`` or ``all``.
        bad_rows: rows that ``fix()`` leaves out.
        removable: check -> rows that ``fix(check)`` leaves out.
    """

    tokenizer: Tokenizer
    data: Data
    verdict: str
    findings: tuple[Finding, ...]
    lengths: tuple[int, ...]
    trained: tuple[int, ...]
    max_length_tokens: int | None = None
    train_on: str = "answers"
    bad_rows: tuple[int, ...] = field(default=(), repr=False)
    removable: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def render(self, index: int) -> Rendered:
        """Return one row as ids and mask; of a pair its chosen side.

        Raises:
            TemplateError: the row cannot be rendered.
        """
        if self.data.signal == "pair":
            return self.render_pair(index).chosen
        cut = self.max_length_tokens
        return render(self.tokenizer, self.data[index], max_length_tokens=cut, train_on=self.train_on)

    def render_pair(self, index: int) -> RenderedPair:
        """Return both sides of a pair as ids and mask.

        Raises:
            TemplateError: the row cannot be rendered.
        """
        return render_pair(self.tokenizer, self.data[index], max_length_tokens=self.max_length_tokens)

    def preview(self, index: int = 0) -> Preview:
        """Return one row token by token: what is trained, what is not, special tokens visible.

        Raises:
            TemplateError: the row cannot be rendered.
        """
        from ft_magic.template.preview import Preview, pieces_of

        if not 0 <= index < len(self.data):
            raise TemplateError(
                f"There is no row {index} in {self.data.name}.",
                f"Rows are counted from 0 to {len(self.data) - 1}.",
            )
        return Preview(index, pieces_of(self.tokenizer, self.render(index)))

    def fix(self, *names: str) -> Data:
        """Return the data with what these checks found repaired; its lineage says what was done.

        Args:
            *names: checks, in the order to repair; without any, rows that cannot be rendered, carry no trained
                token or are cut are left out.

        Raises:
            TemplateError: there is no such fix, or nothing would be left.
        """
        from ft_magic.template.fixes import REMOVED, rewritten

        if not names:
            return self.without(self.bad_rows, "template audit")
        data = self.data
        for name in names:
            if name in REMOVED:
                found = self if data is self.data else self._again(data)
                data = found.without(found.removable.get(name, ()), f"template fix {name}")
            else:
                data = rewritten(self.tokenizer, data, name)
        return data

    def propose(self, name: str = "") -> Proposal:
        """Return a chat template for the model, see ``ft_magic.template.proposal.propose``.

        Raises:
            TemplateError: no such template.
        """
        from ft_magic.template.proposal import propose

        return propose(self.tokenizer, name)

    def _again(self, data: Data) -> Audit:
        cut = self.max_length_tokens
        return check_template(self.tokenizer, data, max_length_tokens=cut, train_on=self.train_on)

    def without(self, rows: Sequence[int], why: str) -> Data:
        """Return the data without some rows; ``why`` begins the line of its lineage.

        Raises:
            TemplateError: nothing would be left.
        """
        if not rows:
            return self.data
        bad = set(rows)
        kept = [index for index in range(len(self.data)) if index not in bad]
        if not kept:
            raise TemplateError(
                f"No row of {self.data.name} can be trained with {self.tokenizer.name}.",
                self.findings[0].fix or "Choose another model or other data.",
            )
        return self.data.part(kept, f"{why}: {len(bad)} rows removed")

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one line a check, those that found nothing included.

        Columns: check, verdict (ok, info, warning, broken), rows, message, why it matters, fix.

        Raises:
            DataError: pandas is not installed.
        """
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.name, []).append(finding)
        lines = []
        for name, check in CHECKS.items():
            passed = Finding(name, "ok", 0, check.wants)
            lines += [
                {
                    "check": name, "verdict": f.level, "rows": f.count, "message": f.message,
                    "why": check.why, "fix": f.fix,
                }
                for f in found.get(name, [passed])
            ]  # fmt: skip
        return frame_of(lines)

    @property
    def summary(self) -> str:
        """One line: verdict, rows, tokens."""
        total, trained = sum(self.lengths), sum(self.trained)
        share = f"{100 * trained / total:.0f} % of them trained" if total else "none of them trained"
        if self.data.signal == "prompt":
            share = "prompts alone"
        return (
            f"template {self.verdict}: {len(self.data)} rows of {self.data.name} for {self.tokenizer.name}, "
            f"{total} tokens, {share}, longest row {max(self.lengths, default=0)}"
        )

    def __repr__(self) -> str:
        return "\n".join([self.summary, *(finding_line(finding) for finding in self.findings)])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(repr(self))

    def _repr_html_(self) -> str:
        from ft_magic.template.preview import audit_card

        return audit_card(self)

    def widget(self) -> Any:
        """Return a widget that pages through the rows, token by token; in a notebook it stands below the card.

        Raises:
            RunError: anywidget is not installed.
        """
        from ft_magic.ui.template_view import template_widget

        return template_widget(self)

    def _ipython_display_(self) -> None:
        """Show the card and the widget where one is drawn; else IPython shows the card."""
        from ft_magic.ui.template_view import show_audit

        show_audit(self)


def check_template(
    model_or_tokenizer: Any,
    data: Any = None,
    *,
    max_length_tokens: int | None = None,
    train_on: str = "answers",
    progress: Progress | None = None,
) -> Audit:
    """Render and tokenize every row and say what is off.

    Args:
        model_or_tokenizer: ``demo``, a hub id, a model folder, a GGUF file, a ``Tokenizer`` or a transformers
            tokenizer.
        data: ``Data``, or anything ``load_data`` reads; without any, a small conversation.
        max_length_tokens: where rows will be cut; None looks at whole rows.
        train_on: ``answers``, ``last`` or ``all``.
        progress: is told how far it is, in rows.

    Raises:
        ModelError: there is no such model or tokenizer.
        DataError: the data cannot be read.
        TemplateError: there is no such ``train_on``.
    """
    check_train_on(train_on)
    tokenizer = tokenizer_of(model_or_tokenizer)
    rows = PROBE if data is None else load_data(data)
    told = progress or silent
    facts: list[RowFacts] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        told("checking the template", start, len(rows))
        facts += facts_of(tokenizer, rows[start : start + _BATCH_ROWS], max_length_tokens, train_on)
    told("checking the template", len(rows), len(rows))
    findings = findings_of(tokenizer, rows, facts)
    return Audit(
        tokenizer=tokenizer,
        data=rows,
        verdict=_verdict(findings),
        findings=findings,
        lengths=tuple(fact.tokens for fact in facts),
        trained=tuple(fact.trained for fact in facts),
        max_length_tokens=max_length_tokens,
        train_on=train_on,
        bad_rows=tuple(i for i, fact in enumerate(facts) if _is_bad(fact, rows.signal)),
        removable={
            name: tuple(i for i, f in enumerate(facts) if is_(f, rows)) for name, is_ in _REMOVABLE.items()
        },
    )


# check -> whether its fix leaves a row out
_REMOVABLE: Mapping[str, Callable[[RowFacts, Data], bool]] = MappingProxyType(
    {
        "not_rendered": lambda fact, _: bool(fact.error),
        "nothing_trained": lambda fact, data: not (fact.error or fact.trained) and data.signal != "prompt",
        "truncated": lambda fact, _: fact.truncated,
        "stop_cut": lambda fact, _: fact.stop_cut,
    }
)


def _is_bad(fact: RowFacts, signal: str) -> bool:
    # Prompts alone have no trained tokens: the model writes its answers while it trains.
    return bool(fact.error) or fact.truncated or (not fact.trained and signal != "prompt")


def _verdict(findings: Sequence[Finding]) -> str:
    levels = {finding.level for finding in findings}
    return next((level for level in ("broken", "warning") if level in levels), "ok")
