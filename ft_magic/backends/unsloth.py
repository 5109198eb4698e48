"""Train with Unsloth. Imported in the worker alone; Unsloth must come before trl, transformers and peft."""

from __future__ import annotations

import time
from typing import Any

import unsloth  # isort: skip  # it rewrites the libraries below when imported
from ft_magic.backends import Emit, Job, Outcome, shortage, trl
from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import advice


def train(job: Job, emit: Emit) -> Outcome:
    """Train with the TRL trainer of the plan's method as Unsloth rewrote it."""
    began = time.monotonic()
    with shortage.told_as_loading(job.plan.model_name, advice(job.plan)):
        model = _model(job.plan)
    return trl.run_trainer(job, emit, model, None, began_s=began)


def _model(plan: Plan) -> Any:
    """Load the base through Unsloth and put the adapter in place."""
    import torch

    settings, spec = plan.settings, plan.spec
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        plan.model_folder,
        max_seq_length=settings.max_length,
        dtype=dtype,
        load_in_4bit=bool(plan.update.bits),
        full_finetuning=plan.update.family == "full",
    )
    if plan.update.family == "full":
        return model
    return unsloth.FastLanguageModel.get_peft_model(
        model,
        r=spec.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=_targets(plan, model),
        use_gradient_checkpointing=settings.gradient_checkpointing,
        random_state=spec.seed,
    )


def _targets(plan: Plan, model: Any) -> list[str]:
    """Return the names of the linear layers to adapt: those asked for, or all but the output head."""
    import torch

    asked = plan.spec.target_modules
    if asked is not None:
        return [asked] if isinstance(asked, str) else list(asked)
    head = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return sorted(names)
