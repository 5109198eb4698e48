"""Judges inside a training worker: which of two answers is better, and how good one answer is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.replies import replies
from ft_magic.judging.settings import Endpoint, Judge, read
from ft_magic.judging.verdicts import Store

A, B, TIE = 0, 1, -1
Say = Callable[[str], None]


def readings(prompt: str, a: str, b: str) -> list[Question]:
    """Return a pair in both orders; equal answers need none."""
    return [] if a == b else [Question("pair", prompt, a, b), Question("pair", prompt, b, a)]


def verdict(first: Reply, second: Reply) -> int:
    """Return which answer is better when both orders agree, else ``TIE``.

    Args:
        first: reply with answer a shown first.
        second: reply with answer b shown first.
    """
    if first.value is None or second.value is None:
        return TIE
    if first.value > 0.5 > second.value:
        return A
    return B if first.value < 0.5 < second.value else TIE


def prefer(
    judge: Any,
    prompts: Sequence[str],
    answers_a: Sequence[str],
    answers_b: Sequence[str],
    *,
    folder: Path,
    say: Say | None = None,
) -> list[int]:
    """Return for each prompt which answer is better: 0 = a, 1 = b, -1 = tie.

    Args:
        judge: what the spec's ``judge`` holds.
        prompts: what was asked, as text.
        answers_a: one answer to each prompt.
        answers_b: the other.
        folder: run folder; every reply is stored there.
        say: told how many replies could not be read, where some could not.

    Raises:
        RunError: the endpoint cannot be reached.
    """
    who, store = _bench(json.dumps(judge, sort_keys=True), folder)
    pairs = list(zip(prompts, answers_a, answers_b, strict=True))
    questions = [question for pair in pairs for question in readings(*pair)]
    found, _ = replies(who, questions, store)
    _count_unread(found, who, say)
    rest = iter(found)
    return [TIE if a == b else verdict(next(rest), next(rest)) for _, a, b in pairs]


def score(
    judge: Any, prompts: Sequence[str], answers: Sequence[str], *, folder: Path, say: Say | None = None
) -> list[float]:
    """Return how good each answer is, from 0 to 1: a local judge's p(Yes), or an endpoint's 1 to 10.

    A reply that cannot be read gets the mean of the others (0.5 when none could be read), which pushes in no
    direction; ``say`` is told.

    Args:
        judge: what the spec's ``judge`` holds.
        prompts: what was asked, as text.
        answers: one answer to each.
        folder: run folder; every reply is stored there.
        say: told how many replies could not be read, where some could not.

    Raises:
        RunError: the endpoint cannot be reached.
    """
    who, store = _bench(json.dumps(judge, sort_keys=True), folder)
    kind = "grade" if isinstance(who.source, Endpoint) else "good"
    questions = [Question(kind, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    found, _ = replies(who, questions, store)
    _count_unread(found, who, say)
    values = [reply.value for reply in found if reply.value is not None]
    neutral = fmean(values) if values else 0.5
    return [neutral if reply.value is None else reply.value for reply in found]


@lru_cache(maxsize=8)
def _bench(written: str, folder: Path) -> tuple[Judge, Store]:
    """Return the judge and its store, kept between the steps of a training."""
    who = read(json.loads(written))
    return who, Store(who, folder)


def _count_unread(found: Sequence[Reply], judge: Judge, say: Say | None) -> None:
    unread = [reply for reply in found if reply.value is None]
    if unread and say is not None:
        first = " ".join(unread[0].raw.split())[:60]
        say(
            f"{len(unread)} of {len(found)} replies of judge {judge.name} cannot be read, the first: {first!r}."
        )
