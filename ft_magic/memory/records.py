"""A published measurement's settings as a ``Setting``: read from the row's own fields, never from its result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ft_magic.errors import ModelError
from ft_magic.memory.resident import ADAM_8BIT
from ft_magic.memory.setting import (
    ATTENTION,
    EVERY_LINEAR,
    GPTQ_BITS,
    NF4_BITS,
    NF4_DOUBLE_BITS,
    Adapter,
    Loss,
    Optimizer,
    Quantization,
    Setting,
)
from ft_magic.models.architecture import Architecture, architecture

_NAMES = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "o_proj", "output_proj": "o_proj",
    "dense": "o_proj", "dense_h_to_4h": "up_proj", "dense_4h_to_h": "down_proj", "out_proj": "o_proj",
    "fc1": "up_proj", "fc2": "down_proj", "wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj",
    "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj",
}  # fmt: skip
_KINDS = {
    "lora": "lora", "qlora": "lora", "adalora": "lora", "dora": "dora", "ia3": "ia3", "vera": "vera",
    "prefix_tuning": "prefix", "prompt_tuning": "prompt", "p_tuning": "ptuning", "ln_tuning": "norms",
    "trainable_tokens": "tokens",
}  # fmt: skip


def read_model(record: Mapping[str, Any]) -> Architecture:
    """Return the model of a record from its ``arch``."""
    arch = record.get("arch") or known_architecture(str(record["model"]))
    return architecture(
        {
            "model_type": arch.get("model_type", "llama"),
            "hidden_size": arch["hidden"],
            "num_hidden_layers": arch["layers"],
            "num_attention_heads": arch["heads"],
            "num_key_value_heads": arch.get("kv_heads"),
            "head_dim": arch.get("head_dim"),
            "intermediate_size": arch["intermediate"],
            "vocab_size": arch["vocab"],
            "tie_word_embeddings": arch.get("tied", False),
            "gated_mlp": arch.get("gated_mlp", True),
            "num_local_experts": arch.get("experts"),
            "num_experts_per_tok": arch.get("experts_per_token"),
            "moe_intermediate_size": arch.get("moe_intermediate"),
            "max_position_embeddings": arch.get("positions", 2048),
        }
    )


def known_architecture(name: str) -> Mapping[str, Any]:
    """Return the sizes of a model that a record only names.

    Raises:
        ModelError: the model is not in the table.
    """
    for key, sizes in _KNOWN.items():
        if key in name.lower():
            return dict(zip(_SIZES, sizes, strict=True))
    raise ModelError(f"The record names '{name}' without its sizes.", "Give its arch.")


_SIZES = ("hidden", "layers", "heads", "kv_heads", "intermediate", "vocab", "tied")
# From each model's config.json on the Hub.
_KNOWN = {"smollm2-1.7b": (2048, 24, 32, 32, 8192, 49152, True)}


def read_setting(record: Mapping[str, Any]) -> Setting:
    """Return the setting of a record."""
    other, stack = record.get("other") or {}, record.get("stack") or {}
    library = frame(record)
    adapter, length = _adapter(record), _length(record)
    weight = 4 if "fp32" in str(record.get("weights_dtype")) else 2
    answers = other.get("max_completion_length") if record["method"] in ("grpo", "rloo") else None
    fused = (
        bool(other.get("foak_kernels")) or "liger" in str(record.get("loss")).lower() or "unsloth" in library
    )
    return Setting(
        micro_batch=record["micro_batch"] or 1,
        length=length,
        answer_length=answers,
        sides=2 if record["method"] in ("dpo", "orpo", "cpo", "simpo", "kto", "reward") else 1,
        adapter=adapter,
        quantization=_quantization(record, stack),
        weight_width=weight,
        autocast_width=2 if re.search(r"bf16|fp16|amp", str(record.get("autocast"))) else 0,
        optimizer=_optimizer(record),
        loss=_loss(record, stack),
        checkpointing=_checkpointing(record),
        attention=_attention(record),
        fused_norms=fused,
        fused_mlp="unsloth" in library
        or ("liger" in str(record.get("loss")).lower() and not other.get("foak_kernels")),
        compiled=bool(other.get("compile")),
        accumulates=(record.get("grad_accum") or 1) > 1,
        fused_qkv="litgpt" in library,
        stale_outputs=bool(other.get("stale_outputs")),
        generation_batch=record["micro_batch"] * (record.get("grad_accum") or 1) if answers else 0,
    )


def assumptions(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a record leaves open and is assumed, one sentence each."""
    lora = record.get("lora") or {}
    words = str(record.get("seq_kind") or "")
    adapter = record["update"] != "full" and not record["update"].startswith("adapter")
    length = f"read from '{words}'" if re.search(r"\d", words) else "nothing says how long its rows were"
    found = _adapter(record) if adapter else None
    open_questions = (
        (not record.get("seq_len"), f"length {_length(record)} tokens: {length}"),
        (adapter and not lora.get("r"), "rank 8: none is named"),
        (
            found is not None and not lora.get("targets") and found.targets == tuple(ATTENTION),
            "adapters on the attention's four projections: no targets are named",
        ),
        (not record.get("attn"), "attention by SDPA: none is named"),
        (not record.get("grad_ckpt"), "no checkpointing: none is named"),
        (not record.get("optimizer"), "AdamW: no optimizer is named"),
        (not record.get("loss"), "the loss of its library: none is named"),
    )
    return tuple(f"Assumed {text}." for applies, text in open_questions if applies)


def frame(record: Mapping[str, Any]) -> str:
    """Return the training library a record names, in lower case."""
    return str((record.get("other") or {}).get("framework", "")).lower()


def _length(record: Mapping[str, Any]) -> int:
    if record.get("seq_len"):
        return int(record["seq_len"])
    words = str(record.get("seq_kind"))
    answer = re.search(r"\+ (\d+) completion", words)
    if answer:
        prompt = re.search(r"(\d+)-(\d+) tokens", words)
        return int(answer[1]) + (int(prompt[2]) if prompt else 0)
    about = re.search(r"~(\d+)-(\d+)", words)
    if about:
        return (int(about[1]) + int(about[2])) // 2
    cap = re.search(r"<=? ?(\d+)", words)
    return int(cap[1]) if cap else 512


def _adapter(record: Mapping[str, Any]) -> Adapter | None:
    if record["update"] == "full":
        return None
    lora = record.get("lora") or {}
    config = lora.get("peft_config") or {}
    names = lora.get("targets") or ()
    listed = re.findall(r"\w+", names if isinstance(names, str) else " ".join(map(str, names)))
    targets = _targets(listed)
    kind = "dora" if lora.get("use_dora") else _KINDS.get(record["update"], "lora")
    counted = (record.get("extra") or {}).get("trainable_params")
    if record["update"].startswith("adapter"):
        kind = "scaled" if record["update"] == "adapter_v2" else "prefix"
        targets = set(EVERY_LINEAR)
    return Adapter(
        kind=kind,
        rank=int(lora.get("r") or 8),
        targets=tuple(sorted(targets)) or ATTENTION,
        width=2 if "bf16" in str(lora.get("adapter_dtype", "")).split("(")[0] else 4,
        dropout=bool(lora.get("dropout")),
        head=bool({"lm_head", "output"} & set(listed)),
        virtual_tokens=int(config.get("num_virtual_tokens") or 0),
        values=counted,
        sets=int(bool(re.search(r"ref\w*[ _]adapter", str(record.get("other")).lower()))),
    )


_EXPANDED = {
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "c_proj": ("o_proj", "down_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "w_pack": ("q_proj", "k_proj", "v_proj"),
    "wqkv": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "all": EVERY_LINEAR,
    "linear": EVERY_LINEAR,
}


def _targets(listed: list[str]) -> set[str]:
    """Return the projections that names of other libraries and architectures mean."""
    # The first Qwen calls its gate w2 and both output projections c_proj.
    own = {"w1": ("up_proj",), "w2": ("gate_proj",)} if "c_attn" in listed else {}
    found: set[str] = set()
    for name in listed:
        found |= set(own.get(name) or _EXPANDED.get(name.lower()) or (_NAMES.get(name, name),))
    return found if found & set(EVERY_LINEAR) else set()


def _quantization(record: Mapping[str, Any], stack: Mapping[str, Any]) -> Quantization | None:
    quant = record.get("quant")
    if not quant or not quant.get("type"):
        return None
    kind, rest = str(quant["type"]).lower(), str(quant.get("unquantized_dtype", ""))
    if "gptq" in kind or "awq" in kind:
        return Quantization(GPTQ_BITS, keeps_width=False)
    if "int8" in kind or "8bit" in kind:
        return Quantization(8.0, 8.0)
    upcast = rest.startswith("fp32")
    norms = upcast or "norms fp32" in rest
    older = "litgpt" in frame(record) or _version(stack.get("bitsandbytes")) < (0, 43)
    return Quantization(
        NF4_DOUBLE_BITS if quant.get("double_quant") else NF4_BITS,
        head="lm_head quantised" in str(quant.get("unquantized")),
        targets_only="without LoRA" in str(quant.get("unquantized")),
        rest_width=4 if upcast else 2,
        norm_width=4 if norms else 2,
        keeps_input=older,
    )


def _optimizer(record: Mapping[str, Any]) -> Optimizer:
    name = str(record.get("optimizer")).lower()
    other = record.get("other") or {}
    state = str(record.get("optimizer_state")).lower()
    eight = "8bit" in name or "8-bit" in state
    # torchtune's recipes ask for fused=True.
    foreach = "foreach" in name or (
        "torchtune" not in frame(record) and not re.search(r"fused|8bit|paged|adafactor|sgd", name)
    )
    # torch's AdamW makes its states like the parameter, whatever a note says of them.
    width = ADAM_8BIT if eight else None
    if "adafactor" in name or "sgd" in name:
        width = 0.0
    in_backward = bool(other.get("optimizer_in_bwd"))
    return Optimizer(width, "paged" in name, 1.0 if foreach and not in_backward else 0.0, in_backward)


def _loss(record: Mapping[str, Any], stack: Mapping[str, Any]) -> Loss:
    words = str(record.get("loss")).lower()
    alive = "kept alive" in words or bool((record.get("other") or {}).get("no_autocast"))
    version = _version(stack.get("transformers"))
    if record["method"] in ("grpo", "rloo") and not re.search("chunk|fused|liger", words):
        return Loss("log_probs")
    chunk = re.search(r"chunk\w*[ =(]+(\d+)( chunks)?", words)
    if chunk and not (record["update"] == "full" and "full logits for full" in words):
        tokens = int(chunk[1])
        if chunk[2]:
            tokens = -(-int(record["micro_batch"] or 1) * _length(record) // tokens)
        return Loss(
            "held_chunks" if chunk[2] or "litgpt" in frame(record) else "chunked", chunk_tokens=tokens
        )
    if re.search("liger|fused linear", words) or ("chunk" in words and chunk is None):
        return Loss("chunked" if "chunk" in words else "fused")
    if "triton" in words:
        return Loss("inplace" if version >= (4, 46) else "inplace_early")
    if version <= (4, 48):
        return Loss("early" if version <= (4, 45) else "shifted", alive)
    return Loss("full", alive)


def _version(text: Any) -> tuple[int, int]:
    parts = re.findall(r"\d+", str(text or ""))
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 else (99, 0)


def _checkpointing(record: Mapping[str, Any]) -> str:
    words = str(record.get("grad_ckpt") or "none").lower()
    if words.startswith(("none", "false", "off")):
        return "none"
    if (record.get("other") or {}).get("activation_offloading") or "unsloth" in words:
        return "offloaded"
    return "layers"


def _attention(record: Mapping[str, Any]) -> str:
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
