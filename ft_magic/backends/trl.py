"""Train with TRL's trainers. Imported in the worker alone, so heavy libraries stand at the top.

Rows arrive tokenized with their labels (``rows.py``), so that what the audit showed is what is trained.
"""

from __future__ import annotations

import importlib
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_magic import atomic
from ft_magic.backends import Emit, Job, Outcome, rows
from ft_magic.backends.arguments import training_arguments, watching_arguments
from ft_magic.backends.watch import PARTIAL, Watch
from ft_magic.errors import SpecError, nearest
from ft_magic.planning.plans import Plan
from ft_magic.run_folder import checkpoint_step
from ft_magic.template import Tokenizer, prompt_ids
from ft_magic.template.files import copy_tokenizer_files

_SAMPLE_PROMPTS = 2
_SAMPLE_TOKENS = 48


def train(job: Job, emit: Emit) -> Outcome:
    """Train with the TRL trainer of the plan's method."""
    began = time.monotonic()
    model = load_model(job.plan)
    return run_trainer(job, emit, model, adapter_config(job.plan), began_s=began)


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
    partial = folder.checkpoints / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    light = Tokenizer.load(plan.model_folder)
    tokenizer = AutoTokenizer.from_pretrained(plan.model_folder)
    trainer = trainer_class(plan)(
        model=model,
        args=trainer_config(plan, partial),
        train_dataset=Dataset.from_list(rows.tokenized(folder.train_rows, light, plan)),
        eval_dataset=_heldout(job, light),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
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
    trainer.train(resume_from_checkpoint=str(job.checkpoint) if job.checkpoint else None)
    if watch.now.failure is not None:
        raise watch.now.failure
    step = trainer.state.global_step
    if watch.now.stop_reason and step < plan.settings.total_steps:
        return Outcome("stopped", step, watch.now.stop_reason)
    save_result(job, trainer, watch)
    return Outcome("finished", step)


def load_model(plan: Plan) -> Any:
    """Load the base model in the plan's precision, quantized where the update says so."""
    extra: dict[str, Any] = {}
    if plan.update.bits:
        from ft_magic.backends.quantized import nf4_config

        extra["quantization_config"] = nf4_config(plan.settings.precision)
    if plan.settings.device == "cuda":
        extra["device_map"] = {"": 0}
    dtype = {4: torch.float32, 2: torch.bfloat16 if plan.settings.precision == "bf16" else torch.float16}
    model = AutoModelForCausalLM.from_pretrained(
        plan.model_folder, dtype=dtype[plan.settings.weight_bytes], attn_implementation="sdpa", **extra
    )
    model.config.use_cache = False
    return model


def adapter_config(plan: Plan) -> Any:
    """Return the PEFT configuration of the plan's update, or None for full fine-tuning."""
    if not plan.update.peft:
        return None
    import peft

    spec = plan.spec
    targets = spec.target_modules or "all-linear"
    return getattr(peft, plan.update.peft)(
        r=spec.lora_r,
        lora_alpha=plan.settings.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        **plan.update.settings,
    )


def trainer_config(plan: Plan, output: Path) -> Any:
    """Return the trainer's configuration.

    Raises:
        SpecError: ``trainer:`` names a field the trainer's configuration does not have.
    """
    config_class = _resolve(plan.method.config)
    spec = plan.spec
    known = config_class.__dataclass_fields__
    for key in spec.trainer:
        if key not in known:
            raise SpecError(
                f"trainer.{key} is no field of {config_class.__name__}.{nearest(key, known)}",
                "See the TRL documentation of this class for its fields.",
            )
    values = watching_arguments(plan, str(output)) | training_arguments(plan)
    return config_class(**(values | dict(spec.trainer)))


def trainer_class(plan: Plan) -> Any:
    """Return the trainer class of the method; for pairs one that takes rows already tokenized."""
    base = _resolve(plan.method.trainer)
    if plan.method.signal != "pair":
        return base

    class TokenizedPairs(base):  # type: ignore[misc,valid-type]  # the base is known at run time only
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    TokenizedPairs.__name__ = base.__name__
    return TokenizedPairs


def _resolve(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def _heldout(job: Job, tokenizer: Tokenizer) -> Any:
    limit = job.plan.settings.eval_examples
    found = rows.tokenized(job.folder.heldout_rows, tokenizer, job.plan, limit) if limit else []
    return Dataset.from_list(found) if found else None


def _sampler(trainer: Any, job: Job, tokenizer: Tokenizer, emit: Emit) -> Any:
    """Return a function that answers the first held-out prompts with the model as it is now."""

    def sample(step: int) -> None:
        model = trainer.model
        was_training = model.training
        model.eval()
        for row in islice(rows.read(job.folder.heldout_rows), _SAMPLE_PROMPTS):
            ids = prompt_ids(tokenizer, row)
            with torch.no_grad():
                out = model.generate(
                    torch.tensor([ids], device=model.device),
                    max_new_tokens=_SAMPLE_TOKENS,
                    do_sample=False,
                    eos_token_id=list(tokenizer.stop_ids),
                    pad_token_id=trainer.processing_class.pad_token_id,
                )
            text = tokenizer.decode(out[0, len(ids) :].tolist())
            emit("sample", step=step, prompt=tokenizer.decode(ids), text=text)
        model.train(was_training)

    return sample


def save_result(job: Job, trainer: Any, watch: Watch) -> None:
    """Write the adapter or the model under its final name, from the best checkpoint when stopping early."""
    target = job.folder.adapter if job.plan.update.family == "adapter" else job.folder.model
    with atomic.new_folder(target) as temporary:
        best = job.folder.checkpoints / f"checkpoint-{watch.now.best_step}"
        if watch.now.best_step and best.exists() and checkpoint_step(best) < trainer.state.global_step:
            for file in best.iterdir():
                if file.suffix in (".safetensors", ".json") and file.name != "trainer_state.json":
                    shutil.copy2(file, temporary / file.name)
        else:
            trainer.model.save_pretrained(str(temporary), safe_serialization=True)
        copy_tokenizer_files(Path(job.plan.model_folder), temporary)
