"""Pipelines: several methods in a row, written by users like one method (``%%rlhf``, ``%%rlaif``).

A stage is a normal run, or makes the rows that a later stage trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: the word users write under ``stages:``; the stage's run is called NAME-stage.
        title: what it does, for tables and messages.
        signal: what its rows carry; the data given is converted to it.
        method: the method it trains by; empty where it makes rows.
        makes: the rows it makes: ``answers`` or ``verdicts``; empty where it trains.
        rows: stage whose rows it reads; empty for the data given.
        model: stage from whose run it starts; empty for the model given.
        rewards: stage whose run scores the answers; empty where none does.
        options: spec keys it reads where it makes rows; a method's own row says which a training reads.
    """

    name: str
    title: str
    signal: str
    method: str = ""
    makes: str = ""
    rows: str = ""
    model: str = ""
    rewards: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """Stages that run one after the other.

    Attributes:
        name: the word users write and the name of its magic (``%%name``).
        title: one sentence for tables and help.
        signal: what the data usually carries.
        stages: in order; the last one's run is the result.
        source: where the recipe comes from.
        needs: spec keys that must be given.
    """

    name: str
    title: str
    signal: str
    stages: tuple[Stage, ...]
    source: str
    needs: tuple[str, ...] = ()


_ROWS = (
    Pipeline(
        name="rlhf",
        title="Reinforcement learning from human feedback: imitate the better answers, learn a reward, then PPO.",
        signal="pair",
        stages=(
            Stage("sft", "imitate the better answers", "demo", method="sft"),
            Stage("reward", "learn to score answers", "pair", method="reward", model="sft"),
            Stage("ppo", "raise the score", "prompt", method="ppo", model="sft", rewards="reward"),
        ),
        source="Ouyang et al. 2022, arXiv 2203.02155, section 3.1",
    ),
    Pipeline(
        name="rlaif",
        title="Learning from AI feedback: the model answers twice, a judge picks the better, DPO learns it.",
        signal="prompt",
        stages=(
            Stage(
                "generate",
                "answer each prompt twice",
                "prompt",
                makes="answers",
                options=("temperature", "max_completion_length"),
            ),
            Stage(
                "judge",
                "pick the better answer",
                "pair",
                makes="verdicts",
                rows="generate",
                options=("judge",),
            ),
            Stage("dpo", "learn the preferences", "pair", method="dpo", rows="judge"),
        ),
        source="Lee et al. 2023, arXiv 2309.00267, with DPO (arXiv 2305.18290) in place of reward and PPO",
        needs=("judge",),
    ),
)
PIPELINES: Mapping[str, Pipeline] = MappingProxyType({row.name: row for row in _ROWS})
