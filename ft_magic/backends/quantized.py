"""The one description of a 4-bit base, so that training, evaluation and merging compute with the same weights."""

from __future__ import annotations

from typing import Any


def nf4_config(precision: str) -> Any:
    """Return the NF4 + double quantization configuration of QLoRA (arXiv 2305.14314).

    Args:
        precision: number format the dequantized weights compute in: fp32, bf16 or fp16.
    """
    import torch
    from transformers import BitsAndBytesConfig

    compute = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def keep_layout(model: Any) -> Any:
    """Keep 4-bit layers as they are when they are first evaluated, and return the model.

    On processors with AVX512-BF16, bitsandbytes (0.50.2) repacks a layer at its first pass in evaluation mode for a
    kernel that computes in bf16 and has no backward pass: training after an evaluation would go on without the
    gradients that flow through the base (measured: tests/test_quantized.py), and evaluation would differ from
    training. The attribute belongs to each layer.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
