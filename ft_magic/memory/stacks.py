"""What a published measurement's libraries do: how they quantize, optimize, recompute, attend, and find the loss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ft_magic.memory.optimizers import OPTIMIZERS
from ft_magic.memory.setting import (
    GPTQ_BITS,
    INT8_BITS,
    NF4_BITS,
    NF4_DOUBLE_BITS,
    Loss,
    Optimizer,
    Quantization,
)


def frame(record: Mapping[str, Any]) -> str:
    """Return the training library a record names, in lower case."""
    return str((record.get("other") or {}).get("framework", "")).lower()


def read_quantization(record: Mapping[str, Any], stack: Mapping[str, Any]) -> Quantization | None:
    """Return how a record stores its frozen layers; None where it does not quantize."""
    quant = record.get("quant")
    if not quant or not quant.get("type"):
        return None
    kind, rest = str(quant["type"]).lower(), str(quant.get("unquantized_dtype", ""))
    eight = "int8" in kind or "8bit" in kind
    if "gptq" in kind or "awq" in kind:
        return Quantization(GPTQ_BITS + 4 * eight, 8.0 if eight else 4.0, keeps_width=False)
    if eight:
        return Quantization(INT8_BITS, 8.0)
    upcast = rest.startswith("fp32")
    norms = upcast or "norms fp32" in rest
    older = "litgpt" in frame(record) or version(stack.get("bitsandbytes")) < (0, 43)
    return Quantization(
        NF4_DOUBLE_BITS if quant.get("double_quant") else NF4_BITS,
        head="lm_head quantised" in str(quant.get("unquantized")),
        targets_only="without LoRA" in str(quant.get("unquantized")),
        rest_width=4 if upcast else 2,
        norm_width=4 if norms else 2,
        keeps_input=older,
    )


def read_optimizer(record: Mapping[str, Any]) -> Optimizer:
    """Return the row of a record's optimizer."""
    name = str(record.get("optimizer")).lower()
    eight = "8bit" in name or "8-bit" in str(record.get("optimizer_state")).lower()
    # torchtune's recipes ask for fused=True.
    fused = "foreach" not in name and ("fused" in name or "torchtune" in frame(record))
    # torch's AdamW makes its states like the parameter, whatever a note says of them.
    row = OPTIMIZERS["adamw_torch_fused" if fused else "adamw_torch"]
    known = next((key for key in ("adafactor", "lion", "sgd") if key in name), None)
    if known:
        row = OPTIMIZERS[{"lion": "lion_8bit" if eight else "lion_32bit"}.get(known, known)]
    elif eight or "paged" in name:
        row = OPTIMIZERS[f"paged_adamw_{'8bit' if eight else '32bit'}" if "paged" in name else "adamw_8bit"]
    if (record.get("other") or {}).get("optimizer_in_bwd"):
        return replace(row, in_backward=True, copies=0.0)
    return row


def read_loss(record: Mapping[str, Any], stack: Mapping[str, Any], length: int) -> Loss:
    """Return how a record's library turns logits of ``length`` tokens a sequence into a loss."""
    words = str(record.get("loss")).lower()
    alive = "kept alive" in words or bool((record.get("other") or {}).get("no_autocast"))
    at = version(stack.get("transformers"))
    if record["method"] in ("grpo", "rloo") and not re.search("chunk|fused|liger", words):
        return Loss("log_probs")
    chunk = re.search(r"chunk\w*[ =(]+(\d+)( chunks)?", words)
    if chunk and not (record["update"] == "full" and "full logits for full" in words):
        tokens = int(chunk[1])
        if chunk[2]:
            tokens = -(-int(record["micro_batch"] or 1) * length // tokens)
        return Loss(
            "held_chunks" if chunk[2] or "litgpt" in frame(record) else "chunked",
            chunk_tokens=tokens,
            entropy="trl" in frame(record),
        )
    if re.search("liger|fused linear", words) or ("chunk" in words and chunk is None):
        return Loss("chunked" if "chunk" in words else "fused", entropy="trl" in frame(record))
    if "triton" in words:
        return Loss("inplace" if at >= (4, 46) else "inplace_early")
    kind = str((record.get("arch") or {}).get("model_type"))
    return Loss(_plain_loss(at, kind), alive)


# Their modeling files, up to transformers 4.48, pass the shifted logits to the loss as they are; so does Qwen's own.
_UNCAST = ("gpt2", "gpt_bigcode", "gpt_neox", "falcon", "qwen")


def _plain_loss(at: tuple[int, int], kind: str) -> str:
    """Return the kind of loss transformers itself had at a version, for a ``model_type``."""
    if at > (4, 48):
        return "full"
    if kind in _UNCAST:
        return "uncast"
    return "early" if at <= (4, 45) else "shifted"


def version(text: Any) -> tuple[int, int]:
    """Return the first two numbers of a version; beyond all others where none is told."""
    parts = re.findall(r"\d+", str(text or ""))
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 else (99, 0)


def read_checkpointing(record: Mapping[str, Any]) -> str:
    """Return a record's kind of checkpointing."""
    words = str(record.get("grad_ckpt") or "none").lower()
    if words.startswith(("none", "false", "off")):
        return "none"
    if (record.get("other") or {}).get("activation_offloading") or "unsloth" in words:
        return "offloaded"
    return "layers"


def read_attention(record: Mapping[str, Any]) -> str:
    """Return a record's attention code."""
    words = str(record.get("attn") or "sdpa").lower()
    if words.startswith("eager"):
        return "eager"
    if "flash_attention" in words or "flash-attn" in words or "fa2" in words:
        return "flash"
    quant = record.get("quant") or {}
    if str(quant.get("unquantized_dtype", "")).startswith("fp32") and "math" in words:
        return "math"
    return "sdpa"


def read_metric(record: Mapping[str, Any]) -> str:
    """Return which sum a record measured."""
    words = str(record.get("metric")).lower()
    if "not stated" in words or words == "none":  # between the two others
        return "reserved"
    if "reserved" in words and "allocated" not in words:
        return "reserved"
    if re.search(r"nvml|device|nvidia-smi|process", words):
        return "device"
    return "allocated"
