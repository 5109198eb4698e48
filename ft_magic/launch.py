"""From what was asked to a running training: spec, data, audit, plan, run folder, worker."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ft_magic import ahead, atomic, events, follow, hardware, intake, models, speeds
from ft_magic.axes import find_method, find_update
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.data import Data
from ft_magic.errors import RunError, TemplateError
from ft_magic.memory import parameters
from ft_magic.paths import runs_dir
from ft_magic.planning import decide
from ft_magic.planning.options import check_options
from ft_magic.planning.plans import Advice, Lengths, Plan, Situation
from ft_magic.planning.room import DiskNeeds, disk_needs
from ft_magic.run import Run
from ft_magic.run_folder import RunFolder
from ft_magic.run_list import remember
from ft_magic.spec import Spec, parse
from ft_magic.template import Audit, Tokenizer, check_template
from ft_magic.template.files import NAMES as TOKENIZER_FILES

if TYPE_CHECKING:
    from ft_magic.models import ModelFacts
    from ft_magic.pipelines import PipelinePlan


@dataclass(frozen=True)
class Prepared:
    """Everything known before a run folder exists."""

    plan: Plan
    train: Data
    heldout: Data | None
    rewards: Any = None  # what rewards.prepare made, where the method has any


def finetune(**spec: Any) -> Run:
    """Fine-tune a model and return the run.

    By default the call starts a worker process and follows it until it ends; ``detach=True`` returns at once.

    Args:
        **spec: the keys of ``Spec``. ``model`` may also be a ``Run``, ``data`` and ``eval_data`` anything
            ``load_data`` reads (DataFrame, list of dicts, ``datasets.Dataset``, ``Data``).

    Raises:
        SpecError: unknown key, wrong type, impossible combination.
        DataError: the data cannot be read or does not carry the method's signal.
        ModelError: the model cannot be found or read.
        TemplateError: the supervision audit found something broken and ``audit`` is ``refuse``.
        RunError: not enough disk, or the run failed.
    """
    if _is_pipeline(spec):
        from ft_magic import pipelines  # calls this function for each of its stages

        return pipelines.run(**spec)
    machine = hardware.read()
    with ahead.importing(spec, machine) as worker:
        prepared = _prepare(spec, machine)
        folder = _make_folder(prepared)
        plan = prepared.plan
        run = remember(Run(folder.path))
        follow.start(
            folder,
            python=plan.spec.python,
            environment=dict(plan.environment),
            detached=plan.spec.detach,
            waiting=worker,
        )
    return run if plan.spec.detach else run.attach()


def make_plan(**spec: Any) -> Plan | PipelinePlan:
    """Return what ``finetune`` would do with the same arguments, without doing it."""
    if _is_pipeline(spec):
        from ft_magic import pipelines

        return pipelines.plan(**spec)
    return _prepare(spec, hardware.read()).plan


def _is_pipeline(spec: Mapping[str, Any]) -> bool:
    method = spec.get("method")
    return isinstance(method, str) and method in PIPELINES


def _prepare(given: Mapping[str, Any], machine: hardware.Hardware) -> Prepared:
    spec = parse(intake.as_text(given))
    method = find_method(spec.method)
    check_options(spec, method, find_update(spec.update))  # before anything is loaded or read
    run, folder, name = intake.model_of("model", spec.model, given.get("model"))
    teacher = intake.model_of("teacher", spec.teacher, given.get("teacher"))[1] if spec.teacher else ""
    if isinstance(teacher, Path):
        intake.check_teacher(folder, teacher)
    train, heldout = intake.rows_of(spec, method, given.get("data"), given.get("eval_data"))
    intake.check_judge(method, given.get("judge"))
    rewards = intake.rewards_of(method, given, train)
    audit = check_template(Tokenizer.load(folder), train, train_on=spec.train_on)
    advice = _judge(spec, audit) + intake.leakage(train, heldout, spec) + intake.unique_facts(train)
    situation = Situation(
        facts=models.facts(folder),
        model_folder=str(folder),
        model_name=name,
        lengths=Lengths(tokens=tuple(audit.lengths), trained=tuple(audit.trained)),
        heldout_examples=len(heldout) if heldout is not None else 0,
        hardware=machine,
        threads=hardware.threads(machine),
        unsloth_installed=find_spec("unsloth") is not None,
        flash_attention_installed=find_spec("flash_attn") is not None,
        speeds=speeds.read(),
        teacher_folder=str(teacher),
        teacher_parameters=parameters(models.facts(teacher)) if isinstance(teacher, Path) else 0,
    )
    plan = decide.make(spec, situation)
    if plan.settings.backend == "ppo":
        from ft_magic.backends.ppo_config import config_of

        config_of(plan)  # a wrong field of trainer: is said before anything starts
    notes = (*train.lineage, *([f"Starts from run {run.name}, merged into its base."] if run else []))
    if spec.audit == "off":
        notes = (f"audit: off, so nobody judged the chat template (it is {audit.verdict}).", *notes)
    if rewards is not None:
        advice += tuple(Advice(problem, fix) for problem, fix in rewards.cautions)
        notes += tuple(rewards.notes)
    advice += _room_cautions(plan, situation.facts)
    plan = replace(plan, warnings=advice + plan.warnings, notes=plan.notes + notes)
    return Prepared(plan, train, heldout, rewards)


def _judge(spec: Spec, audit: Audit) -> tuple[Advice, ...]:
    """Turn the audit into plan warnings, or refuse what is broken."""
    if spec.audit == "off":
        return ()
    broken = [finding for finding in audit.findings if finding.level == "broken"]
    if broken and spec.audit == "refuse":
        first = broken[0]
        raise TemplateError(
            f"the supervision audit found {len(broken)} broken check{'s' * (len(broken) > 1)}: {first.message}",
            f"{first.fix or 'Give other data or another model'}. Or write audit: warn to train all the same.",
        )
    return tuple(Advice(f.message, f.fix) for f in audit.findings if f.level in ("broken", "warning"))


def _make_folder(prepared: Prepared) -> RunFolder:
    """Write the run folder under a temporary name, then rename it: it exists whole or not at all."""
    plan = prepared.plan
    _check_disk(plan)
    path = runs_dir() / _name(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(path) as temporary:
        folder = RunFolder(temporary)
        (temporary / "data").mkdir()
        folder.checkpoints.mkdir()
        prepared.train.to_jsonl(folder.train_rows)
        if prepared.heldout is not None:
            prepared.heldout.to_jsonl(folder.heldout_rows)
        if prepared.rewards is not None:
            prepared.rewards.write(temporary)
        asked = plan.spec.model_dump(mode="json", exclude_defaults=True)
        asked |= {"method": plan.spec.method, "update": plan.spec.update}
        text = yaml.safe_dump(asked, sort_keys=False)
        atomic.write_text(folder.spec, text)
        atomic.write_json(folder.plan, plan.to_dict())
        folder.update_state(name=path.name, status="planned", pid=None, detached=plan.spec.detach)
        writer = events.Writer(folder.events)
        writer.emit(
            "planned",
            name=path.name,
            method=plan.spec.method,
            update=plan.spec.update,
            backend=plan.settings.backend,
            total_steps=plan.settings.total_steps,
            model=plan.model_name,
            eta_s=plan.eta_s,
            eta_source=plan.eta_source,
            eta_steps=plan.eta_steps,
            memory_bytes=plan.memory.total_bytes,
            memory_limit_bytes=plan.memory_limit_bytes,
        )
        for warning in plan.warnings:
            writer.emit("warning", message=warning.message, fix=warning.fix)
        writer.close()
    return RunFolder(path)


def _name(plan: Plan) -> str:
    """Return the name of a run folder that does not exist yet.

    Raises:
        RunError: the name is taken and ``if_exists`` is ``error``.
    """
    if plan.spec.name is None:
        short = "".join(c if c.isalnum() or c in "._-" else "-" for c in plan.model_name)[:30]
        return f"{time.strftime('%Y%m%d-%H%M')}-{plan.spec.method}-{short}-{secrets.token_hex(2)}"
    name, number = plan.spec.name, 2
    if (runs_dir() / name).exists() and plan.spec.if_exists == "error":
        raise RunError(
            f"run '{name}' exists already.", "Choose another name, or write if_exists: new to number it."
        )
    while (runs_dir() / name).exists():
        name, number = f"{plan.spec.name}-{number}", number + 1
    return name


def _check_disk(plan: Plan) -> None:
    """Refuse a run whose checkpoints and result would not fit on the disk.

    Raises:
        RunError: what is needed and what is free.
    """
    needed, free = _needs(plan, models.facts(Path(plan.model_folder))), hardware.disk_free_bytes(runs_dir())
    if needed.run_bytes > free:
        raise RunError(
            f"not enough disk for this run: about {needed.run_bytes / 2**30:.1f} GiB needed in {runs_dir()} "
            f"({needed.words}), {free / 2**30:.1f} GiB free.",
            "Free space, set FT_MAGIC_RUNS to a larger disk, or use update: lora.",
        )


def _needs(plan: Plan, facts: ModelFacts) -> DiskNeeds:
    files = [Path(plan.model_folder) / name for name in TOKENIZER_FILES]
    carried = sum(file.stat().st_size for file in files if file.is_file())
    return disk_needs(plan, facts, parameters(facts), carried)


def _room_cautions(plan: Plan, facts: ModelFacts) -> tuple[Advice, ...]:
    """Warn where a run fits and what usually follows it, or its mirror, does not."""
    needed, free = _needs(plan, facts), hardware.disk_free_bytes(runs_dir())
    found = []
    if needed.run_bytes <= free < needed.run_bytes + needed.merged_bytes:
        found.append(
            Advice(
                f"merging this run will need {needed.merged_bytes / 2**30:.1f} GiB more disk than the "
                f"{needed.run_bytes / 2**30:.1f} GiB of training, and {free / 2**30:.1f} GiB are free.",
                "Free space before, or merge to another folder (on Kaggle /tmp has the most).",
            )
        )
    mirror = plan.spec.mirror
    if mirror and (there := hardware.disk_free_bytes(mirror)) < needed.run_bytes:
        found.append(
            Advice(
                f"the mirror needs about {needed.run_bytes / 2**30:.1f} GiB, "
                f"{mirror} has {there / 2**30:.1f} GiB free.",
                "Free space there, or choose another folder.",
            )
        )
    return tuple(found)
