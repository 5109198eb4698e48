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

from ft_magic import atomic, events, follow, hardware, models
from ft_magic.axes import METHODS, SIGNALS, Method, find_method
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.data import Data, load_data
from ft_magic.errors import DataError, RunError, SpecError, TemplateError
from ft_magic.memory import parameters
from ft_magic.paths import runs_dir
from ft_magic.planning import decide
from ft_magic.planning.plans import Advice, Lengths, Plan, Situation
from ft_magic.run import Run
from ft_magic.run_folder import RunFolder
from ft_magic.run_list import remember
from ft_magic.spec import Spec, parse
from ft_magic.template import Audit, Tokenizer, check_template

if TYPE_CHECKING:
    from ft_magic.pipelines import PipelinePlan

# fp32 LoRA checkpoints hold the adapter and two optimizer moments; full ones the model and both moments.
_CHECKPOINT_COPIES = 3
_REWARD_SAMPLES = 8  # rows on which rewards are tried before anything starts
_KEPT_CHECKPOINTS = 3  # two kept and one being written


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
    prepared = _prepare(spec)
    folder = _make_folder(prepared)
    plan = prepared.plan
    run = remember(Run(folder.path))
    follow.start(
        folder, python=plan.spec.python, environment=dict(plan.environment), detached=plan.spec.detach
    )
    return run if plan.spec.detach else run.attach()


def make_plan(**spec: Any) -> Plan | PipelinePlan:
    """Return what ``finetune`` would do with the same arguments, without doing it."""
    if _is_pipeline(spec):
        from ft_magic import pipelines

        return pipelines.plan(**spec)
    return _prepare(spec).plan


def _is_pipeline(spec: Mapping[str, Any]) -> bool:
    method = spec.get("method")
    return isinstance(method, str) and method in PIPELINES


def _prepare(given: Mapping[str, Any]) -> Prepared:
    spec = parse(_as_text(given))
    method = find_method(spec.method)
    run, folder, name = _model("model", spec.model, given.get("model"))
    teacher = _model("teacher", spec.teacher, given.get("teacher"))[1] if spec.teacher else ""
    train, heldout = _rows(spec, method, given.get("data"), given.get("eval_data"))
    _check_judge(method, given.get("judge"))
    rewards = _rewards(method, given, train)
    audit = check_template(Tokenizer.load(folder), train)
    advice = _judge(spec, audit)
    machine = hardware.read()
    situation = Situation(
        facts=models.facts(folder),
        model_folder=str(folder),
        model_name=name,
        lengths=Lengths(tokens=tuple(audit.lengths), trained=tuple(audit.trained)),
        heldout_examples=len(heldout) if heldout is not None else 0,
        hardware=machine,
        threads=hardware.threads(machine),
        unsloth_installed=find_spec("unsloth") is not None,
        teacher_folder=str(teacher),
        teacher_parameters=parameters(models.facts(teacher)) if isinstance(teacher, Path) else 0,
    )
    plan = decide.make(spec, situation)
    if plan.settings.backend == "ppo":
        from ft_magic.backends.ppo_config import config_of

        config_of(plan)  # a wrong field of trainer: is said before anything starts
    notes = (*train.lineage, *([f"Starts from run {run.name}, merged into its base."] if run else []))
    if rewards is not None:
        advice += tuple(Advice(problem, fix) for problem, fix in rewards.cautions)
        notes += tuple(rewards.notes)
    plan = replace(plan, warnings=advice + plan.warnings, notes=plan.notes + notes)
    return Prepared(plan, train, heldout, rewards)


def _as_text(given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the objects a spec may hold by the words that name them: the spec is kept as text."""
    words = dict(given)
    for key in ("model", "teacher"):
        if isinstance(words.get(key), Run):
            words[key] = words[key].name
    if words.get("judge") is not None:
        from ft_magic.judging.settings import described

        words["judge"] = described(words["judge"])
    if words.get("rewards") is not None:
        from ft_magic.rewards import describe

        words["rewards"] = describe(words["rewards"])
    for key in ("data", "eval_data"):
        if not isinstance(words.get(key), str | None):
            words[key] = _describe(words[key])
    return words


def _describe(value: Any) -> str:
    """Name data given as an object; the rows themselves are kept in the run folder."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Data):
        return value.source
    return (
        f"<{type(value).__name__} of {len(value)} rows>"
        if hasattr(value, "__len__")
        else f"<{type(value).__name__}>"
    )


def _model(key: str, asked: str, given: Any) -> tuple[Run | None, Path, str]:
    """Return the run a model comes from (or None), the model folder, and a short name."""
    if not isinstance(given, Run) and not (runs_dir() / asked / "run.json").is_file():
        folder = models.resolve(asked)
        return None, folder, folder.name if asked != "demo" else "smollm2"
    run = given if isinstance(given, Run) else Run(runs_dir() / asked)
    if run.status != "finished":
        raise SpecError(
            f"{key}: run {run.name} is {run.status}, so it has no result to start from.",
            f"Finish it with %ft resume {run.name}, or name another model.",
        )
    return run, run.merge(), run.name


def _rows(spec: Spec, method: Method, given: Any, given_eval: Any) -> tuple[Data, Data | None]:
    """Load, check the signal and split."""
    data = _of_signal(spec.data if given is None else given, method)
    if spec.eval_data is not None:
        return data, _of_signal(spec.eval_data if given_eval is None else given_eval, method)
    if not spec.eval_fraction:
        return data, None
    return data.split(eval_fraction=spec.eval_fraction, seed=spec.seed)


def _of_signal(source: Any, method: Method) -> Data:
    """Load data as the method's usual signal; refuse what it cannot learn from, naming the conversion.

    Raises:
        DataError: the data cannot be read, or carries another signal.
    """
    data = load_data(source)
    if data.signal == method.signal:
        return data
    if data.signal in method.signals:
        return load_data(source, signal=method.signal)
    fitting = [row.name for row in METHODS.values() if data.signal in row.signals]
    how = SIGNALS[data.signal].converts_to.get(method.signal)
    convert = f"Convert them: data.to('{method.signal}') ({how}); or use" if how else "Use"
    raise DataError(
        f"{data.name} carries '{data.signal}' rows ({data.shape}), but method '{method.name}' learns from "
        f"'{method.signal}' rows.",
        f"{convert} method: {' or '.join(fitting)}, or load_data(..., signal='{method.signal}').",
    )


def _check_judge(method: Method, judge: Any) -> None:
    """Refuse a judge that cannot be understood, or whose key is missing, before anything starts."""
    if judge is None or "judge" not in method.options:
        return
    from ft_magic.judging.settings import Endpoint, read

    source = read(judge).source
    if isinstance(source, Endpoint):
        source.key()


def _rewards(method: Method, spec: Mapping[str, Any], train: Data) -> Any:
    """Try rewards out on the first rows, where the method has any and some are given."""
    given = spec.get("rewards")
    if given is None or "rewards" not in method.options:
        return None
    from ft_magic.rewards import prepare

    columns = tuple(dict.fromkeys(name for row in train for name in row))
    return prepare(given, columns, list(train[:_REWARD_SAMPLES]), judge=spec.get("judge"))


def _judge(spec: Spec, audit: Audit) -> tuple[Advice, ...]:
    """Turn the audit into plan warnings, or refuse what is broken."""
    if spec.audit == "off":
        return ()
    broken = [finding for finding in audit.findings if finding.level == "broken"]
    if broken and spec.audit == "refuse":
        first = broken[0]
        raise TemplateError(
            f"the supervision audit found {len(broken)} broken check(s): {first.message}",
            f"{first.fix} Or write audit: warn to train all the same.",
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
    parts = plan.memory.parts
    result = parts["adapter"] or parts["weights"]
    needed = result * (_CHECKPOINT_COPIES * _KEPT_CHECKPOINTS + 1)
    free = hardware.disk_free_bytes(runs_dir())
    if needed > free:
        raise RunError(
            f"not enough disk for this run: about {needed / 2**30:.1f} GiB needed in {runs_dir()}, "
            f"{free / 2**30:.1f} GiB free.",
            "Free space, set FT_MAGIC_RUNS to a larger disk, or use update: lora.",
        )
