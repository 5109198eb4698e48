"""Published measurements, one row of ``measured_peaks.jsonl`` each, as settings of a trace."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

from ft_magic.errors import SpecError
from ft_magic.memory.cards import find_card
from ft_magic.memory.tracing.settings import Adapter, Dtype, Quantized, TraceSettings

_DTYPES: Mapping[str, Dtype] = MappingProxyType({"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"})
# A row's update -> PEFT's configuration class
_ADAPTERS: Mapping[str, str] = MappingProxyType(
    {
        "lora": "LoraConfig",
        "qlora": "LoraConfig",
        "ia3": "IA3Config",
        "vera": "VeraConfig",
        "prompt_tuning": "PromptTuningConfig",
        "prefix_tuning": "PrefixTuningConfig",
        "p_tuning": "PromptEncoderConfig",
        "ln_tuning": "LNTuningConfig",
    }
)
# What a row calls its optimizer -> the optimizer; the first part that fits counts.
_OPTIMIZERS = (
    ("foreach", "adamw"),
    ("paged_adamw_8bit", "paged_adamw_8bit"),
    ("pagedadamw8bit", "paged_adamw_8bit"),
    ("pagedadamw", "paged_adamw_32bit"),
    ("adamw8bit", "adamw_8bit"),
    ("8bit", "adamw_8bit"),
    ("fused", "adamw_fused"),
    ("adamw", "adamw"),
)
_METHODS = ("sft", "dpo", "reward", "grpo")
# Kernels and frameworks with code of their own, which the installed transformers does not show.
_OTHER_LOSSES = ("liger", "triton", "chunk")
_OTHER_FRAMEWORKS = ("litgpt", "torchtune", "qwen", "ms-swift", "agilerl", "unsloth")


def record_settings(row: Mapping[str, Any]) -> tuple[dict[str, Any], TraceSettings]:
    """Return the config and the settings of a published measurement.

    Raises:
        SpecError: the row's code is not Hugging Face's own (fused kernels, other frameworks), or its facts are
            incomplete.
    """
    _check(row)
    adapter = _adapter(row)
    attention = str(row["attn"] or "sdpa")
    other = row.get("other") or {}
    settings = TraceSettings(
        method=row["method"],
        micro_batch=int(row["micro_batch"]),
        length_tokens=int(row["seq_len"]),
        prompt_tokens=_prompt_tokens(row),
        weights=_DTYPES[row["weights_dtype"]],
        autocast=_autocast(row),
        adapter=adapter,
        quantized=_quantized(row),
        optimizer=_optimizer(str(row["optimizer"])),
        checkpointing=_checkpointing(str(row["grad_ckpt"] or "none")),
        attention=_attention(attention),
        repeats_keys="GQA expanded" in attention,
        padded="4D mask" in attention,
        loss=_loss(row),
        keeps_output=_is_loop(row),
        stale=bool(other.get("stale_outputs")),
        accumulation=min(int(row.get("grad_accum") or 1), 2),  # gradients live on from the second one
        card=find_card(str(row.get("gpu") or "")),
    )
    return _config(row), settings


def _check(row: Mapping[str, Any]) -> None:
    other = row.get("other") or {}
    arch, quant = row.get("arch"), row.get("quant")
    loss, framework = str(row.get("loss") or "").lower(), str(other.get("framework") or "").lower()
    problems = (
        (row["method"] not in _METHODS, f"method {row['method']}"),
        (row["update"] != "full" and row["update"] not in _ADAPTERS, f"update {row['update']}"),
        (any(word in loss for word in _OTHER_LOSSES) or other.get("foak_kernels"), f"loss '{row['loss']}'"),
        (quant and quant.get("type") != "nf4", f"quantization {quant and quant.get('type')}"),
        # One tensor for all experts in transformers 5, which bitsandbytes leaves as it is; a layer each before.
        (quant and arch and arch.get("experts"), "quantized experts"),
        (any(word in framework for word in _OTHER_FRAMEWORKS), f"framework {framework}"),
        (not arch, "an unknown architecture"),
        (not row.get("micro_batch") or not row.get("seq_len"), "a missing batch or length"),
        (int(row.get("n_gpus") or 1) != 1, "more than one device"),
    )
    for wrong, problem in problems:
        if wrong:
            raise SpecError(f"Row {row.get('id')} cannot be traced: {problem}.", "Use engine='closed'.")


def _prompt_tokens(row: Mapping[str, Any]) -> int:
    """Return the tokens of a row's sequence that no answer covers."""
    answer = (row.get("other") or {}).get("max_completion_length")
    return max(0, int(row["seq_len"]) - int(answer)) if answer else 0


def _config(row: Mapping[str, Any]) -> dict[str, Any]:
    arch = row["arch"]
    values = {
        "model_type": arch["model_type"],
        "hidden_size": arch["hidden"],
        "num_hidden_layers": arch["layers"],
        "num_attention_heads": arch["heads"],
        "num_key_value_heads": arch["kv_heads"],
        "head_dim": arch["head_dim"],
        "intermediate_size": arch["intermediate"],
        "vocab_size": arch["vocab"],
        "tie_word_embeddings": arch["tied"],
        "max_position_embeddings": max(4096, int(row["seq_len"])),
        "sliding_window": None,
    }
    if arch.get("experts"):
        values |= {
            "num_local_experts": arch["experts"],
            "num_experts_per_tok": arch["experts_per_token"],
        }
    if arch["model_type"] == "gpt_bigcode":
        values |= {"multi_query": arch["kv_heads"] == 1, "n_inner": arch["intermediate"]}
    return values


def _adapter(row: Mapping[str, Any]) -> Adapter | None:
    if row["update"] == "full":
        return None
    given = row.get("lora") or {}
    if given.get("peft_config"):
        known = {
            k: v for k, v in given["peft_config"].items() if v is not None and k not in _PEFT_BOOKKEEPING
        }
        return Adapter(_ADAPTERS[row["update"]], known, upcast=given.get("adapter_dtype") != "bf16")
    options = {
        "r": given["r"],
        "lora_alpha": given.get("alpha") or 2 * given["r"],
        "lora_dropout": given.get("dropout") or 0.0,
        "target_modules": given["targets"],
        "use_dora": bool(given.get("use_dora")),
    }
    return Adapter("LoraConfig", options, upcast=given.get("adapter_dtype") != "bf16")


_PEFT_BOOKKEEPING = (
    "peft_type",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
)


def _quantized(row: Mapping[str, Any]) -> Quantized | None:
    quant = row.get("quant")
    if not quant:
        return None
    text = str(quant.get("unquantized_dtype") or "")
    rest: Literal["stored", "float32", "norms"] = "stored"
    if text.startswith("fp32"):
        rest = "float32"
    elif text.startswith("norms fp32"):
        rest = "norms"
    return Quantized(double=bool(quant.get("double_quant")), rest=rest)


def _optimizer(text: str) -> str:
    name = text.lower().replace(" ", "").replace("torch.optim.", "")
    return next((optimizer for part, optimizer in _OPTIMIZERS if part in name), "adamw")


def _checkpointing(text: str) -> Literal["reentrant", "non_reentrant"] | None:
    if text.startswith("none"):
        return None
    # transformers' own default was reentrant until 5.0; a row says where it chose.
    return "non_reentrant" if "False" in text else "reentrant"


def _attention(text: str) -> Literal["eager", "sdpa", "flash_attention_2"]:
    name = text.split(maxsplit=1)[0]
    return cast('Literal["eager", "sdpa", "flash_attention_2"]', name) if name in _ATTENTION else "sdpa"


_ATTENTION = ("eager", "sdpa", "flash_attention_2")


def _autocast(row: Mapping[str, Any]) -> Dtype | None:
    return _DTYPES[str(row["autocast"]).split(maxsplit=1)[0]] if row.get("autocast") else None


def _is_loop(row: Mapping[str, Any]) -> bool:
    """Whether a hand-written loop holds the model's output: HF's Trainer and TRL let go of it."""
    return bool((row.get("other") or {}).get("no_autocast"))


def _loss(row: Mapping[str, Any]) -> Literal["installed", "4.46", "4.45", "uncast"]:
    version = str((row.get("stack") or {}).get("transformers") or "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) != 2 or numbers >= (4, 49):
        return "installed"
    if row["arch"]["model_type"].startswith("gpt"):
        return "uncast"
    return "4.46" if numbers >= (4, 46) else "4.45"
