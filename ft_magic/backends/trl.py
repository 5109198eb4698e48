"""Train with TRL's trainers. Imported in the worker alone, so heavy libraries stand at the top.

Rows arrive tokenized with their labels (``rows.py``), so that what the audit showed is what is trained.
"""

from __future__ import annotations

import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from ft_magic import atomic
from ft_magic.backends import (
    PARTIAL,
    Emit,
    Job,
    Outcome,
    adapters,
    cross_entropy,
    preflight,
    rescue,
    rows,
    shortage,
)
from ft_magic.backends.answering import answer_ids, without_stop
from ft_magic.backends.arguments import training_arguments, watching_arguments
from ft_magic.backends.base_model import load_model, load_teacher
from ft_magic.backends.scoring import Scorer, load_scorer, reward_functions
from ft_magic.backends.trainers import dataset, resolve, trainer_class
from ft_magic.backends.watch import Watch
from ft_magic.errors import DataError, SpecError, nearest
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import advice
from ft_magic.run_folder import checkpoint_step
from ft_magic.template import Tokenizer, prompt_ids
from ft_magic.template.files import copy_tokenizer_files

_SAMPLE_PROMPTS = 2
_SAMPLE_TOKENS = 48


def train(job: Job, emit: Emit) -> Outcome:
    """Train with the TRL trainer of the plan's method."""
    began = time.monotonic()
    torch.manual_seed(job.plan.spec.seed)  # a new score head is random
    with shortage.told_as_loading(job.plan.model_name, advice(job.plan)):
        model, adapter = adapters.prepare(load_model(job.plan), job.plan)
    return run_trainer(job, emit, model, adapter, began_s=began)


def run_trainer(job: Job, emit: Emit, model: Any, peft_config: Any, *, began_s: float) -> Outcome:
    """Build the trainer around a loaded model, train, and leave the result in the run folder.

    Args:
        job: what to do.
        emit: where events go.
        model: the loaded model, with its adapter already in place when ``peft_config`` is None.
        peft_config: adapter for TRL to add, or None.
        began_s: monotonic time at which loading began.
    """
    plan, folder = job.plan, job.folder
    torch.manual_seed(plan.spec.seed)
    folder.checkpoints.mkdir(exist_ok=True)
    shutil.rmtree(folder.checkpoints / PARTIAL, ignore_errors=True)
    light = Tokenizer.load(plan.model_folder)
    if plan.settings.backend == "trl":
        cross_entropy.use_own()
    trainer = _trainer(job, emit, model, peft_config, light)
    rescue.guard(trainer, rescue.Room(plan, emit))
    if plan.settings.preflight and job.checkpoint is None:
        preflight.rehearse(trainer, plan, emit)
    watch = Watch(job, emit, sample=_sampler(trainer, job, light, emit))
    trainer.add_callback(watch)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    emit(
        "loaded",
        model=plan.model_name,
        trainable_parameters=trained,
        total_parameters=trainer.model.num_parameters(),
        seconds=time.monotonic() - began_s,
    )
    _train(trainer, watch, job)
    if watch.now.failure is not None:
        raise watch.now.failure
    step = trainer.state.global_step
    if watch.now.stop_reason and step < plan.settings.total_steps:
        return Outcome("stopped", step, watch.now.stop_reason)
    save_result(job, trainer, watch)
    return Outcome("finished", step)


def _train(trainer: Any, watch: Watch, job: Job) -> None:
    """Train to the end.

    Raises:
        ShortageError: memory ran out; what was trained until then is saved.
    """
    try:
        trainer.train(resume_from_checkpoint=str(job.checkpoint) if job.checkpoint else None)
    except Exception as error:
        if not shortage.is_shortage(error):
            raise
        short = error
    else:
        return
    raise rescue.rescued(trainer, watch, short)


def _trainer(job: Job, emit: Emit, model: Any, peft_config: Any, light: Tokenizer) -> Any:
    """Build the trainer with its rows and, where it has them, its rewards or its teacher."""
    plan, folder, feed = job.plan, job.folder, job.plan.method.feed
    train_rows = rows.tokenized(folder.train_rows, light, plan)
    limit = plan.settings.eval_examples
    heldout = rows.tokenized(folder.heldout_rows, light, plan, limit) if limit else rows.Tokenized([])
    _tell_dropped(train_rows, "training", emit)
    if not train_rows.rows:
        raise DataError(
            f"none of the training rows can be used: {train_rows.reasons}.",
            "Look at %ft template for each row.",
        )
    scorer = load_scorer(folder.path, plan, emit)
    trainer = adapters.trained_by(trainer_class(plan), plan)(
        model=model,
        args=trainer_config(plan, folder.checkpoints / PARTIAL, light, scorer),
        train_dataset=dataset(train_rows.rows, feed),
        eval_dataset=dataset(heldout.rows, feed, len(train_rows.rows)),
        processing_class=AutoTokenizer.from_pretrained(plan.model_folder),
        peft_config=peft_config,
        **_further(plan, folder.path / "data", emit, light, scorer, [*train_rows.rows, *heldout.rows]),
    )
    if plan.update.bits:
        # TRL holds what trains beside a 4-bit base in bf16, but a resumed run gets it back in fp32, and a score
        # head in bf16 does not fit its hidden states: fp32 from the start.
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    return trainer


def _further(
    plan: Plan, folder: Path, emit: Emit, light: Tokenizer, scorer: Scorer | None, found: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the arguments that only some trainers take."""
    if plan.teacher_folder:
        return {"teacher_model": load_teacher(plan)}
    if plan.method.trainer.startswith("ft_magic."):
        return {"rows": found, "light": light, "emit": emit, "folder": folder, "scorer": scorer}
    return {"reward_funcs": reward_functions(scorer, found)} if scorer is not None else {}


def _tell_dropped(made: rows.Tokenized, which: str, emit: Emit) -> None:
    if made.dropped:
        emit(
            "warning",
            message=f"{sum(made.dropped.values())} {which} rows are left out: {made.reasons}.",
            fix="They would teach nothing; repair them, or raise max_length where they are too long.",
        )


def trainer_config(plan: Plan, output: Path, light: Tokenizer, scorer: Scorer | None) -> Any:
    """Return the trainer's configuration.

    Args:
        plan: of the run.
        output: folder the trainer writes checkpoints into.
        light: tokenizer of the model.
        scorer: what judges answers, where anything does.

    Raises:
        SpecError: ``trainer:`` names a field the trainer's configuration does not have.
    """
    config_class = resolve(plan.method.config)
    spec = plan.spec
    known = config_class.__dataclass_fields__
    for key in spec.trainer:
        if key not in known:
            raise SpecError(
                f"trainer.{key} is no field of {config_class.__name__}.{nearest(key, known)}",
                "See the TRL documentation of this class for its fields.",
            )
    values = watching_arguments(plan, str(output)) | training_arguments(plan)
    if plan.method.score_head:
        values["pad_token"] = light.codec.token_of(light.unlike_stop_id)
    if scorer is not None and scorer.rewards is not None and "reward_weights" in known:
        values["reward_weights"] = list(scorer.rewards.weights)
    return config_class(**(values | dict(spec.trainer)))


def _sampler(trainer: Any, job: Job, tokenizer: Tokenizer, emit: Emit) -> Any:
    """Return a function that answers the first held-out prompts with the model as it is now."""
    if job.plan.method.score_head:
        return None

    def sample(step: int) -> None:
        prompts = [
            prompt_ids(tokenizer, row) for row in islice(rows.read(job.folder.heldout_rows), _SAMPLE_PROMPTS)
        ]
        found = answer_ids(trainer.model, tokenizer, prompts, max_new_tokens=_SAMPLE_TOKENS)
        for ids, answer in zip(prompts, found, strict=True):
            text = tokenizer.decode(without_stop(answer, tokenizer))
            emit("sample", step=step, prompt=tokenizer.decode(ids), text=text)

    return sample


def save_result(job: Job, trainer: Any, watch: Watch) -> None:
    """Write the adapter or the model under its final name, from the best checkpoint when stopping early."""
    target = job.folder.adapter if job.plan.update.family == "adapter" else job.folder.model
    with atomic.new_folder(target) as temporary:
        best = job.folder.checkpoints / f"checkpoint-{watch.now.best_step}"
        better = watch.now.best_step and best.exists() and checkpoint_step(best) < trainer.state.global_step
        adapters.save(trainer.model, job.plan, temporary, best if better else None)
        copy_tokenizer_files(Path(job.plan.model_folder), temporary)
