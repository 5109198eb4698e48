"""The one description of a 4-bit base, so that training, evaluation and merging hold the same weights."""

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
