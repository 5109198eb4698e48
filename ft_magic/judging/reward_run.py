"""Asks a reward run: its scores of two answers as the probability that the first is better (Bradley-Terry)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.judging.local import Tell, probability
from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.settings import RewardRun

if TYPE_CHECKING:
    from ft_magic.rewards.model import RewardModel

_TOLD = 16  # answers scored between two replies to whoever waits


def ask(_judge: Any, source: RewardRun, questions: Sequence[Question], tell: Tell) -> None:
    """Score every answer once; ``tell`` gets each reply. The order of two answers cannot matter here."""
    model = _load(source.path)
    scores: dict[tuple[str, str], float] = {}
    for start in range(0, len(questions), _TOLD):
        batch = questions[start : start + _TOLD]
        wanted = {(q.prompt, answer) for q in batch for answer in ([q.a, q.b] if q.kind == "pair" else [q.a])}
        missing = sorted(wanted - scores.keys())
        found = model.scores([model.ids(prompt, answer) for prompt, answer in missing])
        scores |= dict(zip(missing, found, strict=True))
        for index, question in enumerate(batch, start):
            odds = scores[question.prompt, question.a]
            odds -= scores[question.prompt, question.b] if question.kind == "pair" else 0.0
            tell(index, Reply(probability(odds), f"log-odds {odds:+.4f}"))


@lru_cache(maxsize=1)
def _load(path: str) -> RewardModel:
    import torch

    from ft_magic.rewards.model import load

    return load(Path(path), "cuda" if torch.cuda.is_available() else "cpu")
