"""Pipelines: several runs one after the other, asked for like one (``method: rlhf`` or ``rlaif``)."""

from ft_magic.pipelines.pipeline import run
from ft_magic.pipelines.preview import PipelinePlan, plan

__all__ = ["PipelinePlan", "plan", "run"]
