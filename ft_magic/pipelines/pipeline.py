"""Runs the stages of a pipeline one after the other; finished ones are kept, interrupted ones go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_magic import launch
from ft_magic.axes.pipelines import PIPELINES, Pipeline, Stage
from ft_magic.data import Data, load_data
from ft_magic.errors import DataError, RunError
from ft_magic.judging.judgement import Contest
from ft_magic.judging.settings import check, described
from ft_magic.pipelines import making
from ft_magic.pipelines.record import Record, digest_of, open_record
from ft_magic.pipelines.shares import Shares, convertible, shares
from ft_magic.run import Run
from ft_magic.run_list import remember
from ft_magic.ui.live import ProgressLine
from ft_magic.ui.screens import Frame, pick
from ft_magic.ui.show import note_html


@dataclass(frozen=True)
class Course:
    """One pipeline under way.

    Attributes:
        pipeline: its row.
        given: what was asked.
        shares: the settings of each stage.
        data: the rows given.
        heldout: the held-out rows given, or None.
        record: its folder.
        runs: the run of each training stage so far.
        contests: prompts with two answers, of each stage that made some.
        pairs: rows made by a stage.
        digests: of each stage so far.
    """

    pipeline: Pipeline
    given: Mapping[str, Any]
    shares: Shares
    data: Data
    heldout: Data | None
    record: Record
    runs: dict[str, Run] = field(default_factory=dict)
    contests: dict[str, list[Contest]] = field(default_factory=dict)
    pairs: dict[str, Data] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def say(self, stage: Stage, text: str) -> None:
        """Show a line about a stage."""
        number = self.pipeline.stages.index(stage) + 1
        say(f"{self.record.name}, stage {number} of {len(self.pipeline.stages)}, {stage.name}: {text}")


def run(**given: Any) -> Run:
    """Run a pipeline and return the run of its last stage, or the one that was stopped.

    Args:
        **given: as for ``finetune``, with ``method`` the pipeline's name; ``stages`` holds settings of single
            stages. With the ``name`` of an interrupted pipeline it goes on where that stopped.

    Raises:
        FTError: as for ``finetune``; the stages before the failure are kept.
    """
    pipeline = PIPELINES[given["method"]]
    parts = shares(pipeline, given)
    data, heldout = checked(pipeline, given, parts)
    record = open_record(given.get("name"), pipeline.name, str(described(given["model"])))
    if given.get("name") is None:
        say(f"This pipeline is called {record.name}; should it be interrupted, write name: {record.name}.")
    course = Course(pipeline, given, parts, data, heldout, record)
    last: Run | None = None
    for stage in pipeline.stages:
        course.digests[stage.name] = _digest(course, stage)
        if stage.makes:
            _MAKERS[stage.makes](course, stage)
            continue
        last = course.runs[stage.name] = _train(course, stage)
        if last.status != "finished":
            course.say(stage, f"{last.status}. Run the same cell with name: {record.name} to go on.")
            break
    assert last is not None  # every pipeline trains
    return remember(last)


def checked(pipeline: Pipeline, given: Mapping[str, Any], parts: Shares) -> tuple[Data, Data | None]:
    """Read the rows and see that every stage can use them and its judge, before any stage takes its hours.

    Raises:
        DataError: rows cannot be read, or carry the wrong signal.
        SpecError: the judge's settings cannot be.
        ModelError: there is no such judge.
    """
    data = load_data(given["data"])
    for stage in pipeline.stages:
        if "judge" in stage.options:
            with ProgressLine("Finding the judge") as progress:
                check(parts[stage.name]["judge"], progress)
    for stage in pipeline.stages:
        if not stage.rows:
            _check(pipeline, stage, data, "data")
    if given.get("eval_data") is None:
        return data, None
    heldout = load_data(given["eval_data"])
    for stage in pipeline.stages:
        if stage.method:
            _check(pipeline, stage, heldout, "eval_data")
    return data, heldout


def _check(pipeline: Pipeline, stage: Stage, data: Data, key: str) -> None:
    if not convertible(data, stage.signal):
        raise DataError(
            f"{key}: {data.name} carries '{data.signal}' rows, and stage {stage.name} of {pipeline.name} needs "
            f"'{stage.signal}' rows, which they cannot become.",
            f"Give '{pipeline.signal if key == 'data' else stage.signal}' rows.",
        )


def _digest(course: Course, stage: Stage) -> str:
    """Return the digest of everything the stage depends on."""
    before = {key: course.digests.get(getattr(stage, key)) for key in ("rows", "model", "rewards")}
    return digest_of(
        stage=stage.name,
        settings={key: described(value) for key, value in course.shares[stage.name].items()},
        data=None if stage.rows else course.data.sha256,
        heldout=course.heldout.sha256 if course.heldout is not None and stage.method else None,
        model=None if stage.model else described(course.given["model"]),
        before=before,
    )


def _answers(course: Course, stage: Stage) -> None:
    file = course.record.rows_file(stage.name, course.digests[stage.name])
    data = course.data.to(stage.signal)
    before = making.answered(file)
    course.say(
        stage, f"{stage.title}, {len(data)} prompts ({len(before)} answered before); kept in {file.name}."
    )
    if len(before) < len(data):
        model = making.model_reference(course.given["model"], course.given)
        before = making.make_answers(model, data, course.shares[stage.name], file)
    course.contests[stage.name] = before


def _verdicts(course: Course, stage: Stage) -> None:
    file = course.record.rows_file(stage.name, course.digests[stage.name])
    if file.exists():
        course.say(stage, f"done before; its pairs are reused from {file.name}.")
        course.pairs[stage.name] = Data.from_jsonl(file)
        return
    course.say(stage, f"{stage.title}.")
    pairs, found = making.make_pairs(course.contests[stage.rows], course.shares[stage.name], file)
    course.pairs[stage.name] = pairs
    course.say(
        stage, f"{pairs.lineage[-1]}; first-shown preferred in {found.first_share or 0:.0%} of readings."
    )


_MAKERS: Mapping[str, Callable[[Course, Stage], None]] = MappingProxyType(
    {"answers": _answers, "verdicts": _verdicts}
)


def _train(course: Course, stage: Stage) -> Run:
    """Return the stage's run: the finished one of before, the interrupted one continued, or a new one."""
    digest = course.digests[stage.name]
    before = course.record.run_of(stage.name, digest)
    try:
        return _again(course, stage, before) if before else _anew(course, stage, digest)
    except RunError as error:
        way = f"Stages before {stage.name} are kept: run the same cell with name: {course.record.name} to go on."
        raise RunError(error.problem, f"{error.instead}\n{way}".strip()) from error


def _again(course: Course, stage: Stage, folder: Path) -> Run:
    known = Run(folder)
    if known.status == "finished":
        course.say(stage, f"done before; run {known.name} is reused.")
        return known
    course.say(stage, f"run {known.name} is {known.status}; it goes on.")
    return known.attach() if known.status == "running" else known.resume()


def _anew(course: Course, stage: Stage, digest: str) -> Run:
    name = course.record.begin(stage.name, digest, number=course.given.get("if_exists") != "error")
    settings = dict(course.shares[stage.name])
    if stage.rewards:
        settings["rewards"] = course.runs[stage.rewards]
    if course.heldout is not None:
        settings["eval_data"] = course.heldout.to(stage.signal)
    rows = course.pairs[stage.rows] if stage.rows else course.data.to(stage.signal)
    model = course.runs[stage.model] if stage.model else course.given["model"]
    course.say(stage, f"{stage.title}, run {name}, {len(rows)} rows.")
    return launch.finetune(model=model, data=rows, method=stage.method, name=name, **settings)


def say(text: str) -> None:
    """Show a line where this code runs: notebook, terminal or log."""
    pick()(
        Frame(
            text=text,
            bundle=lambda: {"text/html": note_html(text), "text/plain": text},
            stage=text,
            final=True,
        )
    )
