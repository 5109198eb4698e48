"""check_template: is every row supervised as you think? All rows, not a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.data.data import Data, frame_of
from ft_magic.data.finding import Finding, finding_line
from ft_magic.data.load import load_data
from ft_magic.errors import ModelError, TemplateError
from ft_magic.progress import Progress, silent
from ft_magic.template.checks import CHECKS, RowFacts, findings_of
from ft_magic.template.render import Rendered, RenderedPair, pair_scripts, render, render_pair, tokenized
from ft_magic.template.script import UNSTOPPED, Script, script_of
from ft_magic.template.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ft_magic.template.preview import Preview

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

        return Preview(index, pieces_of(self.tokenizer, self.render(index)))

    def fix(self) -> Data:
        """Return the data without rows that cannot be rendered, carry no trained token or are cut.

        Raises:
            TemplateError: nothing would be left.
        """
        if not self.bad_rows:
            return self.data
        bad = set(self.bad_rows)
        kept = [index for index in range(len(self.data)) if index not in bad]
        if not kept:
            raise TemplateError(
                f"No row of {self.data.name} can be trained with {self.tokenizer.name}.",
                self.findings[0].fix or "Choose another model or other data.",
            )
        return self.data.part(kept, f"template audit: {len(bad)} rows removed")

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one line a check, those that found nothing included.

        Raises:
            DataError: pandas is not installed.
        """
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.name, []).append(finding)
        lines = []
        for name, wanted in CHECKS.items():
            passed = Finding(name, "ok", 0, wanted)
            lines += [
                {"check": f.name, "verdict": f.level, "rows": f.count, "message": f.message, "fix": f.fix}
                for f in found.get(name, [passed])
            ]
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


def check_template(
    model_or_tokenizer: Any,
    data: Any,
    *,
    max_length_tokens: int | None = None,
    train_on: str = "answers",
    progress: Progress | None = None,
) -> Audit:
    """Render and tokenize every row and say what is off.

    Args:
        model_or_tokenizer: ``demo``, a hub id, a model folder, a ``Tokenizer`` or a transformers tokenizer.
        data: ``Data``, or anything ``load_data`` reads.
        max_length_tokens: where rows will be cut; None looks at whole rows.
        train_on: ``answers``, ``last`` or ``all``.
        progress: is told how far it is, in rows.

    Raises:
        ModelError: there is no such model or tokenizer.
        DataError: the data cannot be read.
    """
    tokenizer = _tokenizer_of(model_or_tokenizer)
    rows = load_data(data)
    told = progress or silent
    facts: list[RowFacts] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        told("checking the template", start, len(rows))
        facts += _facts(tokenizer, rows[start : start + _BATCH_ROWS], max_length_tokens, train_on)
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
    )


def _is_bad(fact: RowFacts, signal: str) -> bool:
    # Prompts alone have no trained tokens: the model writes its answers while it trains.
    return bool(fact.error) or fact.truncated or (not fact.trained and signal != "prompt")


def _verdict(findings: Sequence[Finding]) -> str:
    levels = {finding.level for finding in findings}
    return next((level for level in ("broken", "warning") if level in levels), "ok")


def _tokenizer_of(value: Any) -> Tokenizer:
    """Return the tokenizer of whatever names or is one."""
    if isinstance(value, Tokenizer):
        return value
    if hasattr(value, "apply_chat_template"):
        return Tokenizer.from_transformers(value)
    if not isinstance(value, str | Path):
        raise ModelError(
            f"A {type(value).__name__} is no model or tokenizer.",
            "Give 'demo', a model folder (of a run: run.merge()), a hub id or a tokenizer.",
        )
    folder = Path(value).expanduser()
    if (folder / "tokenizer.json").is_file():  # a tokenizer alone is enough here, without any weights
        return Tokenizer.load(folder)
    from ft_magic.models import resolve

    return Tokenizer.load(resolve(str(value)))


def _facts(tokenizer: Tokenizer, rows: Data, max_length_tokens: int | None, train_on: str) -> list[RowFacts]:
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
    ends = [
        rendered.ids[place]
        for place, trained in enumerate(rendered.mask)
        if trained and not (place + 1 < len(rendered.mask) and rendered.mask[place + 1])
    ]
    if rendered.truncated and rendered.mask and rendered.mask[-1]:
        ends = ends[:-1]
    if all(rendered.mask):  # every token is trained, so the stop need not be the last
        return rendered.truncated or any(token_id in tokenizer.stop_ids for token_id in rendered.ids)
    return all(token_id in tokenizer.stop_ids for token_id in ends)
