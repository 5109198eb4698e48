"""What is off in preferences: pairs of answers, and answers judged one by one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ft_magic.data.labels import balancing_weights, label_counts
from ft_magic.data.report.finding import Finding, finding_of
from ft_magic.data.report.repeats import contradicted
from ft_magic.data.row import Row, answer_text

_LENGTH_BIAS = 1.25  # chosen / rejected length; DPO exploits length: Park et al. 2024, arXiv 2403.19159
# KTO still matched DPO with 90 % of the good answers left out: arXiv 2402.01306, section 4.
_MOST_LOPSIDED = 10


def pair_findings(rows: tuple[Row, ...]) -> list[Finding | None]:
    """Return what only pairs can have: equal answers, better ones that are always longer."""
    sides = [(answer_text(row, "chosen"), answer_text(row, "rejected")) for row in rows]
    same = [index for index, (chosen, rejected) in enumerate(sides) if chosen == rejected]
    lengths = [(len(chosen), len(rejected)) for chosen, rejected in sides]
    longer = sum(better > worse for better, worse in lengths)
    return [
        finding_of(
            "same_answers", "problem", same, "{n} with equal chosen and rejected answers: nothing to learn.",
            "data.fix('same_answers')",
        ),
        finding_of(
            "contradictions", "problem", contradicted(rows),
            "{n} whose chosen answer is the rejected one of another row, and the other way round.",
            "keep one order, or data.fix('contradictions') drops both",
        ),
        _length_bias(
            [better for better, _ in lengths],
            [worse for _, worse in lengths],
            ("Chosen", "rejected"),
            f" (longer in {longer} of {len(rows)} rows)",
            len(rows),
        ),
    ]  # fmt: skip


def label_findings(rows: tuple[Row, ...]) -> list[Finding | None]:
    """Return what only judged answers can have: how many are good, contradictions, good ones longer."""
    good = [len(answer_text(row)) for row in rows if row["label"]]
    bad = [len(answer_text(row)) for row in rows if not row["label"]]
    return [
        _balance(rows),
        finding_of(
            "contradictions", "problem", contradicted(rows),
            "{n} with an answer that is marked good and, elsewhere, bad.",
            "keep one verdict for each, or data.fix('contradictions') drops both",
        ),
        _length_bias(good, bad, ("Good", "bad"), "", len(rows)) if good and bad else None,
    ]  # fmt: skip


def _balance(rows: tuple[Row, ...]) -> Finding:
    """Return how many answers are good and bad; a warning where one kind is rare or missing."""
    good, bad = label_counts(rows)
    counts = f"{good} good and {bad} bad answers"
    if not good or not bad:
        fix = "add answers of the other kind; to imitate good answers alone use data.to('demo')"
        return Finding("labels", "warning", len(rows), f"{counts}: nothing to tell apart.", (), fix)
    if max(good, bad) <= _MOST_LOPSIDED * min(good, bad):
        return Finding("labels", "info", len(rows), f"{counts}.")
    desirable, undesirable = balancing_weights(good, bad)
    message = f"{counts}: more lopsided than {_MOST_LOPSIDED} to 1, so the rare kind hardly counts."
    weight = f"desirable_weight: {desirable:g}" if good < bad else f"undesirable_weight: {undesirable:g}"
    return Finding(
        "labels", "warning", len(rows), message, (), f"trainer: {{{weight}}}, or more of that kind"
    )


def _length_bias(
    better: Sequence[int], worse: Sequence[int], names: tuple[str, str], detail: str, count: int
) -> Finding | None:
    """Return a finding where better answers are much longer or shorter (characters each) than worse ones."""
    ratio = statistics.fmean(better) / max(statistics.fmean(worse), 1.0)
    if 1 / _LENGTH_BIAS <= ratio <= _LENGTH_BIAS:
        return None
    message = (
        f"{names[0]} answers are {ratio:.2f} times as long as {names[1]} ones{detail}: "
        "preference training may learn the length."
    )
    fix = "balance the lengths, or compare answers of similar length"
    return Finding("length_bias", "warning", count, message, (), fix)
