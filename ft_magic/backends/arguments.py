"""The plan as keyword arguments of a TRL configuration: the one place where it becomes a dict."""

from __future__ import annotations

from typing import Any

from ft_magic.planning.plans import Plan
from ft_magic.planning.smaller import eval_batch_size


def training_arguments(plan: Plan) -> dict[str, Any]:
    """Return the arguments that decide what is learned; the same for a run and for its script."""
    settings, spec = plan.settings, plan.spec
    common = {
        "max_steps": settings.total_steps,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": spec.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps,
        "optim": settings.optim,
        "seed": spec.seed,
        "bf16": settings.precision == "bf16" and settings.device == "cuda",
        "fp16": settings.precision == "fp16",
        "use_cpu": settings.device == "cpu",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "logging_steps": 1,
        "report_to": [spec.report_to] if isinstance(spec.report_to, str) else list(spec.report_to or []),
    }
    return common | _method_arguments(plan)


def _method_arguments(plan: Plan) -> dict[str, Any]:
    """Return the arguments that only some methods have, by what their row says."""
    spec, settings, method = plan.spec, plan.settings, plan.method
    fixed: dict[str, Any] = dict(method.settings)
    if method.feed != "prompts":
        fixed["max_length"] = settings.max_length
    if "packing" in method.options:
        fixed["packing"] = settings.packing
        if settings.padding_free:
            fixed |= {
                "padding_free": True,
                "max_length": None,
            }  # rows come cut; TRL cannot cut them here (trl 1.14)
    if method.reference == "precomputed":
        # Full fine-tuning: the reference's log-probabilities are computed once, so no second model is kept.
        fixed["precompute_ref_log_probs"] = plan.update.family == "full"
    decided = {name: getattr(settings, name) for name in _DECIDED if name in method.options}
    asked = {
        key: getattr(spec, key)
        for key in ("beta", "loss_type")
        if key in method.options and getattr(spec, key) is not None
    }
    if "num_generations" in method.options:
        # Answers of one optimizer step are sampled together, whatever the micro-batch.
        decided["steps_per_generation"] = settings.accumulation_steps
    return fixed | decided | asked


_DECIDED = ("max_completion_length", "num_generations", "temperature", "iterations")


def watching_arguments(plan: Plan, output: str) -> dict[str, Any]:
    """Return the arguments of evaluation, checkpoints and display, which only a run needs.

    Args:
        plan: of the run.
        output: folder the trainer writes checkpoints into.
    """
    settings = plan.settings
    return {
        "output_dir": output,
        "per_device_eval_batch_size": eval_batch_size(plan),
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if settings.eval_examples else "no",
        "eval_steps": settings.eval_steps,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "disable_tqdm": True,
        "dataloader_pin_memory": settings.device == "cuda",
    }
