"""The model a run starts from, loaded as its plan says. Imported in the worker alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from ft_magic.backends import matmul
from ft_magic.backends.quantized import keep_layout, nf4_config
from ft_magic.planning.plans import Plan


def load_model(plan: Plan) -> Any:
    """Load the base in the plan's precision, quantized where the update says so, with a score head where asked."""
    extra: dict[str, Any] = {}
    matmul.use_fastest()
    if plan.update.bits:
        extra["quantization_config"] = nf4_config(plan.settings.precision)
    if plan.settings.device == "cuda":
        extra["device_map"] = {"": 0}
    if plan.method.score_head:
        # A fresh head is what is meant, not a damaged file: transformers would warn of it.
        logging.set_verbosity_error()
        model = AutoModelForSequenceClassification.from_pretrained(
            plan.model_folder, num_labels=1, dtype=weight_dtype(plan), attn_implementation="sdpa", **extra
        )
    else:
        attention = plan.settings.attention
        model = AutoModelForCausalLM.from_pretrained(
            plan.model_folder, dtype=weight_dtype(plan), attn_implementation=attention, **extra
        )
    model.config.use_cache = False
    return keep_layout(model)


def load_teacher(plan: Plan) -> Any:
    """Load the teacher of a distillation, frozen, in the student's number format."""
    model = AutoModelForCausalLM.from_pretrained(
        plan.teacher_folder, dtype=weight_dtype(plan), attn_implementation="sdpa"
    )
    if plan.settings.device == "cuda":
        model = model.to("cuda")
    return model.eval().requires_grad_(requires_grad=False)


def weight_dtype(plan: Plan) -> torch.dtype:
    """Return the number format the plan holds unquantized weights in."""
    if plan.settings.weight_bytes == 4:
        return torch.float32
    return torch.bfloat16 if plan.settings.precision == "bf16" else torch.float16
