"""What a pipeline would do: its stages in a table, and the plans that can be made already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_magic import launch
from ft_magic.axes.pipelines import PIPELINES, Pipeline, Stage
from ft_magic.judging.settings import described
from ft_magic.pipelines.pipeline import checked
from ft_magic.pipelines.shares import Shares, shares
from ft_magic.planning.plans import Plan
from ft_magic.ui.show import shown_table


@dataclass(frozen=True, repr=False)
class PipelinePlan:
    """A pipeline before it runs; shows itself.

    Attributes:
        pipeline: its row.
        shares: the settings of each stage.
        plans: the plan of each stage whose model and rows exist already.
    """

    pipeline: Pipeline
    shares: Shares
    plans: Mapping[str, Plan]

    def _table(self) -> Any:
        rows = [
            [number, stage.name, stage.title, _from(stage), _settings(self.shares[stage.name])]
            for number, stage in enumerate(self.pipeline.stages, 1)
        ]
        later = [s.name for s in self.pipeline.stages if s.method and s.name not in self.plans]
        notes = [f"Planned once the stages before are done: {', '.join(later)}."] if later else []
        title = f"{self.pipeline.name}: {self.pipeline.title}"
        return shown_table(rows, ("", "stage", "what it does", "from", "settings"), title=title, notes=notes)

    def _repr_html_(self) -> str:
        return "\n".join([self._table().html, *(plan._repr_html_() for plan in self.plans.values())])

    def __repr__(self) -> str:
        return "\n\n".join([self._table().text, *map(repr, self.plans.values())])


def plan(**given: Any) -> PipelinePlan:
    """Return what ``run`` would do with the same arguments, without doing it.

    Raises:
        FTError: as for ``run``, where it can be known before.
    """
    pipeline = PIPELINES[given["method"]]
    parts = shares(pipeline, given)
    data, heldout = checked(pipeline, given, parts)
    plans = {}
    for stage in pipeline.stages:
        if stage.method and not (stage.rows or stage.model or stage.rewards):
            settings = dict(parts[stage.name])
            if heldout is not None:
                settings["eval_data"] = heldout.to(stage.signal)
            rows = data.to(stage.signal)
            made = launch.make_plan(model=given["model"], data=rows, method=stage.method, **settings)
            assert isinstance(made, Plan)  # a stage's method is no pipeline
            plans[stage.name] = made
    return PipelinePlan(pipeline, parts, plans)


def _from(stage: Stage) -> str:
    """Return what a stage builds on, in words."""
    model = f"result of {stage.model}" if stage.model else "the model given"
    rows = f"rows of {stage.rows}" if stage.rows else f"the data as {stage.signal} rows"
    parts = [model, rows] if stage.method or not stage.rows else [rows]
    return ", ".join([*parts, *([f"score of {stage.rewards}"] if stage.rewards else [])])


def _settings(share: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {described(value)}" for key, value in share.items()) or "defaults"
