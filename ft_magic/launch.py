"""From what was asked to a running training: spec, data, audit, plan, run folder, worker."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ft_magic import atomic, events, follow, hardware, models
from ft_magic.axes import find_method
from ft_magic.data import Data, load_data
from ft_magic.errors import DataError, RunError, SpecError, TemplateError
from ft_magic.paths import runs_dir
from ft_magic.planning import decide
from ft_magic.planning.plans import Advice, Lengths, Plan, Situation
from ft_magic.run import Run
from ft_magic.run_folder import RunFolder
from ft_magic.run_list import remember
from ft_magic.spec import Spec, parse
from ft_magic.template import Audit, Tokenizer, check_template

# fp32 LoRA checkpoints hold the adapter and two optimizer moments; full ones the model and both moments.
_CHECKPOINT_COPIES = 3
_KEPT_CHECKPOINTS = 3  # two kept and one being written


@dataclass(frozen=True)
class Prepared:
    """Everything known before a run folder exists."""

    plan: Plan
    train: Data
    heldout: Data | None


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
    prepared = _prepare(spec)
    folder = _make_folder(prepared)
    plan = prepared.plan
    run = remember(Run(folder.path))
    follow.start(
        folder, python=plan.spec.python, environment=dict(plan.environment), detached=plan.spec.detach
    )
    return run if plan.spec.detach else run.attach()


def make_plan(**spec: Any) -> Plan:
    """Return what ``finetune`` would do with the same arguments, without doing it."""
    return _prepare(spec).plan


def _prepare(given: Mapping[str, Any]) -> Prepared:
    spec = parse(_as_text(given))
    run, folder, name = _model(spec, given.get("model"))
    train, heldout = _rows(spec, given.get("data"), given.get("eval_data"))
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
    )
    plan = decide.make(spec, situation)
    notes = (*train.lineage, *([f"Starts from run {run.name}, merged into its base."] if run else []))
    return Prepared(replace(plan, warnings=advice + plan.warnings, notes=plan.notes + notes), train, heldout)


def _as_text(given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the objects a spec may hold by the words that name them: the spec is kept as text."""
    words = dict(given)
    if isinstance(words.get("model"), Run):
        words["model"] = words["model"].name
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


def _model(spec: Spec, given: Any) -> tuple[Run | None, Path, str]:
    """Return the run the model comes from (or None), the model folder, and a short name."""
    if not isinstance(given, Run) and not (runs_dir() / spec.model / "run.json").is_file():
        folder = models.resolve(spec.model)
        return None, folder, folder.name if spec.model != "demo" else "smollm2"
    run = given if isinstance(given, Run) else Run(runs_dir() / spec.model)
    if run.status != "finished":
        raise SpecError(
            f"model: run {run.name} is {run.status}, so it has no result to start from.",
            f"Finish it with %ft resume {run.name}, or name another model.",
        )
    return run, run.merge(), run.name


def _rows(spec: Spec, given: Any, given_eval: Any) -> tuple[Data, Data | None]:
    """Load, check the signal and split."""
    method = find_method(spec.method)
    data = load_data(spec.data if given is None else given)
    _check_signal(data, method.name, method.signal)
    if spec.eval_data is not None:
        heldout = load_data(spec.eval_data if given_eval is None else given_eval)
        _check_signal(heldout, method.name, method.signal)
        return data, heldout
    if not spec.eval_fraction:
        return data, None
    return data.split(eval_fraction=spec.eval_fraction, seed=spec.seed)


def _check_signal(data: Data, method: str, wanted: str) -> None:
    if data.signal == wanted:
        return
    from ft_magic.axes import METHODS

    fitting = [row.name for row in METHODS.values() if row.signal == data.signal]
    raise DataError(
        f"{data.name} carries '{data.signal}' rows ({data.shape}), but method '{method}' learns from '{wanted}' rows.",
        f"Use method: {' or '.join(fitting)}, or load the data with signal='{wanted}' and a column mapping.",
    )


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
