"""A published measurement's settings as a ``Setting``: read from the row's own fields, never from its result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ft_magic.errors import ModelError
from ft_magic.memory.setting import ATTENTION, EVERY_LINEAR, Adapter, Setting
from ft_magic.memory.stacks import (
    frame,
    read_attention,
    read_checkpointing,
    read_loss,
    read_metric,
    read_optimizer,
    read_quantization,
    version,
)
from ft_magic.models.architecture import Architecture, architecture

__all__ = ["assumptions", "frame", "read_metric", "read_model", "read_setting", "record_config"]
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
    return architecture(record_config(record))


def record_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a record in the words of a ``config.json``."""
    arch = record.get("arch") or known_architecture(str(record["model"]))
    return {
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
        quantization=read_quantization(record, stack),
        weight_width=weight,
        autocast_width=2 if re.search(r"bf16|fp16|amp", str(record.get("autocast"))) else 0,
        optimizer=read_optimizer(record),
        loss=read_loss(record, stack, length),
        checkpointing=read_checkpointing(record),
        attention=read_attention(record),
        fused_norms=fused,
        fused_mlp="unsloth" in library
        or ("liger" in str(record.get("loss")).lower() and not other.get("foak_kernels")),
        compiled=bool(other.get("compile")),
        accumulates=(record.get("grad_accum") or 1) > 1,
        fused_qkv="litgpt" in library,
        stale_outputs=bool(other.get("stale_outputs")),
        # vLLM answers from memory of its own.
        generation_batch=record["micro_batch"] * (record.get("grad_accum") or 1)
        if answers and not other.get("vllm")
        else 0,
        packed_experts=version(stack.get("transformers")) >= (5, 0),
        # Where the cache is emptied, nothing stays of other lengths.
        lengths_vary=not other.get("empty_cache_every")
        and bool(re.search("cut at|dynamic padding|padded per batch", str(record.get("seq_kind")))),
        method=record["method"],
        reference=_reference(record),
        # transformers' own default was reentrant until 5.0; a row says where it chose.
        reentrant=version(stack.get("transformers")) < (5, 0) and "False" not in str(record.get("grad_ckpt")),
        masked="4D mask" in str(record.get("attn")),
        # Until 4.53 transformers always repeated them; so do litgpt's and torchtune's own models.
        repeats_keys="GQA expanded" in str(record.get("attn"))
        or version(stack.get("transformers")) < (4, 53)
        or bool(library),
    )


def _reference(record: Mapping[str, Any]) -> str:
    """Return what a record's reference model costs, see ``Setting.reference``."""
    if record["method"] not in ("dpo", "kto"):
        return ""
    if (record.get("other") or {}).get("precompute_ref_log_probs"):
        return "precomputed"
    return "copy" if record["update"] == "full" else "adapter"


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
        head=bool({"lm_head", "output"} & set(listed))
        and not (record.get("other") or {}).get("modules_to_save"),
        virtual_tokens=int(config.get("num_virtual_tokens") or 0),
        values=counted,
        saved=_saved((record.get("other") or {}).get("modules_to_save") or ()),
        sets=int(bool(re.search(r"ref\w*[ _]adapter", str(record.get("other")).lower()))),
        options={
            name: value for name, value in config.items() if name not in _BOOKKEEPING and value is not None
        },
    )


def _saved(named: Sequence[str]) -> tuple[str, ...]:
    """Return which of embedding and output layer train whole, by PEFT's names for them."""
    words = {"wte": "embed_tokens", "embed_in": "embed_tokens", "embed_out": "lm_head", "output": "lm_head"}
    found = {words.get(name, name) for name in named}
    return tuple(sorted(found & {"embed_tokens", "lm_head"}))


# Keys of PEFT's adapter_config.json that say nothing of the adapter's size.
_BOOKKEEPING = (
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version",
)  # fmt: skip
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
