"""How each memory estimator is asked of a published row, in the options that say it best.

Every function returns a callable of a row and a folder with its config.json, which answers GiB or raises. The tools
are imported by name in a process of their own, and never a dependency.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

Row = dict[str, Any]
Ask = Callable[[Row, str], float]
GIB = 2**30
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def bits(row: Row) -> str:
    """Return how the frozen weights are stored: none, int8 or nf4 (which GPTQ's four bits count as)."""
    kind = str((row["quant"] or {}).get("type") or "").lower()
    return "" if not kind else "int8" if "8" in kind and "nf4" not in kind else "nf4"


def names(row: Row) -> list[str]:
    """Return the adapters' projections in Llama's names."""
    other = {
        "q": ["q_proj"], "k": ["k_proj"], "v": ["v_proj"], "proj": ["o_proj"], "output_proj": ["o_proj"],
        "c_attn": ["q_proj", "k_proj", "v_proj"], "W_pack": ["q_proj", "k_proj", "v_proj"],
        "query_key_value": ["q_proj", "k_proj", "v_proj"], "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "c_proj": ["o_proj", "down_proj"], "dense": ["o_proj"], "w1": ["up_proj"], "w2": ["gate_proj"],
        "w3": ["up_proj"], "mlp": ["gate_proj", "up_proj", "down_proj"], "gate_up_proj": ["gate_proj", "up_proj"],
    }  # fmt: skip
    listed = (row["lora"] or {}).get("targets") or ["q_proj", "v_proj"]
    listed = [listed] if isinstance(listed, str) else listed
    found = {new for name in listed for new in other.get(name, [name])}
    return [name for name in EVERY if name in found] or list(EVERY)


def scope(row: Row, two: str) -> str:
    """Return the adapters' reach in presets: all_linear, attention, or ``two`` for queries and values alone."""
    targets = names(row)
    return (
        "all_linear"
        if {"up_proj", "down_proj"} & set(targets)
        else "attention"
        if "k_proj" in targets
        else two
    )


def checkpointed(row: Row) -> bool:
    """Return whether the row checkpoints its activations."""
    return not str(row["grad_ckpt"] or "none").lower().startswith(("none", "false", "off"))


def width(row: Row) -> str:
    """Return the row's compute precision: fp32, fp16 or bf16."""
    words = f"{row['compute_dtype']} {row['autocast']}"
    return next((kind for kind in ("bf16", "fp16") if kind in words), "fp32")


def stored(row: Row) -> str:
    """Return the precision the unquantized weights are held in."""
    words = str(row["weights_dtype"])
    return next((kind for kind in ("fp32", "fp16", "bf16") if kind in words), "bf16")


def eager(row: Row) -> bool:
    """Return whether the row holds attention's scores."""
    return str(row["attn"]).startswith("eager")


def runtime_counts(row: Row) -> bool:
    """Return whether the row's figure is more than the tensors': reserved, or the whole device."""
    return "allocated" not in str(row["metric"]).lower()


def ask_ft_magic() -> Ask:
    """Return ft-magic's own closed estimate."""
    question = import_module("ft_magic.memory.question")
    return lambda row, _folder: question.estimate_memory(record=row).peak_bytes / GIB


def ask_fitcheck() -> Ask:
    """Return fitcheck-llm's estimate; its config fetch reads the row's file."""
    parser, engine, cards = (
        import_module(f"fitcheck.{name}") for name in ("config_parser", "estimator", "gpu_db")
    )
    state: dict[str, str] = {}
    setattr(parser, "hf_hub_download", lambda **_told: f"{state['folder']}/config.json")  # noqa: B010
    setattr(parser, "_reported_param_count", lambda *_told: None)  # noqa: B010  (else the Hub is asked)

    def ask(row: Row, folder: str) -> float:
        state["folder"] = folder
        full, eight = row["update"] == "full", "8bit" in str(row["optimizer"])
        setting = engine.TrainingConfig(
            precision=width(row),
            quantization=bits(row) or "none",
            double_quant=bool((row["quant"] or {}).get("double_quant")),
            optimizer="adam8bit" if eight else "sgd" if "sgd" in str(row["optimizer"]).lower() else "adamw",
            optimizer_dtype="bf16" if full and stored(row) == "bf16" else "fp32",
            batch_size=row["micro_batch"] or 1,
            seq_len=row["seq_len"],
            lora_rank=None if full else (row["lora"] or {}).get("r") or 8,
            lora_targets=names(row),
            grad_checkpoint=checkpointed(row),
            flash_attn=not eager(row),
        )
        card = cards.GPU_DB["t4" if "T4" in str(row["gpu"]) else "a100-80"]
        found = engine.estimate(parser.fetch_model_config("held/out"), setting, card)
        return float(found.total_mib - (0 if runtime_counts(row) else found.overhead_mib)) / 1024

    return ask


def ask_canifinetune() -> Ask:
    """Return canifinetune's estimate, less its safety margin."""
    memory = import_module("canifinetune.estimator.memory")

    def ask(row: Row, folder: str) -> float:
        quant = {"": "none", "int8": "int8", "nf4": "nf4"}[bits(row)]
        if (row["quant"] or {}).get("double_quant"):
            quant = "nf4_double_quant"
        paged, eight = "paged" in str(row["optimizer"]).lower(), "8bit" in str(row["optimizer"]).lower()
        request = memory.EstimateRequest(
            model_id=folder, use_network=False, gpu_vram_gb=16.0 if "T4" in str(row["gpu"]) else 80.0,
            method="qlora" if quant != "none" else row["update"], quantization=quant,
            seq_len=row["seq_len"], micro_batch_size=row["micro_batch"] or 1, base_dtype=stored(row),
            lora_rank=(row["lora"] or {}).get("r") or 8, lora_target_scope=scope(row, "conservative"),
            optimizer=("paged_adamw_8bit" if paged else "adamw_8bit") if eight else "adamw_torch",
            gradient_checkpointing=checkpointed(row),
            attention_implementation="eager" if eager(row) else "sdpa",
            loss_backend="liger" if "liger" in str(row["loss"]).lower() else "stock",
        )  # fmt: skip
        found = memory.estimate(request).memory
        runtime = 0 if runtime_counts(row) else found.cuda_overhead_gb
        return float(found.total_estimated_gb - found.safety_margin_gb - runtime)

    return ask


def ask_vramcalc() -> Ask:
    """Return vramcalc's training estimate, which knows no quantized weights."""
    engine = import_module("vramcalc.estimate")

    def ask(row: Row, folder: str) -> float:
        if row["quant"]:
            raise ValueError("no quantized weights")
        found = engine.estimate(
            folder, mode="train", dtype=stored(row), batch=row["micro_batch"] or 1, seq_len=row["seq_len"],
            lora_rank=None if row["update"] == "full" else (row["lora"] or {}).get("r") or 8,
            grad_checkpoint=checkpointed(row), precision="amp" if row["autocast"] else "pure",
            attn_impl="eager" if eager(row) else "sdpa", overhead_gb=0.75 if runtime_counts(row) else 0.0,
        )  # fmt: skip
        return float((found.total + (found.overhead if runtime_counts(row) else 0)) / GIB)

    return ask


def ask_ftuneai() -> Ask:
    """Return ftuneai's estimate."""
    memory, words = import_module("ftuneai.core.memory"), import_module("ftuneai.core.models")

    def ask(row: Row, _folder: str) -> float:
        arch = row["arch"]
        reach = {"two": "attention", "attention": "attention_all"}.get(scope(row, "two"), "all_linear")
        model = words.ModelSpec(
            row["model"], arch["params"], arch["hidden"], arch["layers"], arch["heads"], arch["kv_heads"],
            arch["intermediate"], arch["vocab"], 32768,
        )  # fmt: skip
        setting = words.TrainingConfig(
            method=words.FineTuneMethod("qlora" if row["quant"] else row["update"]),
            quantization=words.Quantization({"": "none", "int8": "8bit", "nf4": "4bit"}[bits(row)]),
            batch_size=row["micro_batch"] or 1, seq_length=row["seq_len"], lora_target=words.LoRATarget(reach),
            gradient_checkpointing=checkpointed(row), lora_rank=(row["lora"] or {}).get("r") or 8,
            optimizer=words.OptimizerType("adam_8bit" if "8bit" in str(row["optimizer"]) else "adamw"),
            flash_attention=not eager(row),
        )  # fmt: skip
        found = memory.MemoryEstimator(model, setting).estimate()
        return float(found.total_gb - (0 if runtime_counts(row) else found.overhead_gb))

    return ask


def ask_hf_vram_calc() -> Ask:
    """Return hf-vram-calc's figure for training, or for LoRA on the stored weights."""
    module = import_module("hf_vram_calc.calculator")
    tool = module.VRAMCalculator(import_module("hf_vram_calc.config").ConfigManager())

    def ask(row: Row, _folder: str) -> float:
        params = row["arch"]["params"]
        weights = tool.calculate_model_memory(
            params, {"nf4": "int4"}.get(bits(row)) or bits(row) or stored(row)
        )
        if row["update"] == "full":
            return float(tool.calculate_training_memory(weights))
        return float(tool.calculate_lora_memory(weights, params, (row["lora"] or {}).get("r") or 8))

    return ask


def ask_gpu_estimator() -> Ask:
    """Return gpu-estimator's total, which knows no adapters."""
    tool = import_module("gpu_estimator.estimator").GPUEstimator()

    def ask(row: Row, _folder: str) -> float:
        if row["update"] != "full":
            raise ValueError("no adapters")
        found = tool.estimate(
            row["arch"]["params"], row["micro_batch"] or 1, row["seq_len"], stored(row),
            gradient_checkpointing=checkpointed(row),
        )  # fmt: skip
        return float(found.total_memory_gb)

    return ask


def ask_alloc() -> Ask:
    """Return alloc's static scan, which knows no adapters."""
    ghost = import_module("alloc.ghost").ghost

    def ask(row: Row, _folder: str) -> float:
        if row["update"] != "full":
            raise ValueError("no adapters")
        arch, eight = row["arch"], "8bit" in str(row["optimizer"])
        found = ghost(
            param_count=arch["params"], dtype=stored(row), batch_size=row["micro_batch"] or 1,
            seq_length=row["seq_len"], hidden_dim=arch["hidden"], optimizer_type="AdamW8bit" if eight else "AdamW",
        )  # fmt: skip
        return float(found.total_gb)

    return ask


def ask_accelerate() -> Ask:
    """Return what accelerate estimate-memory prints: training with Adam, or for adapters the loaded size."""
    command = import_module("accelerate.commands.estimate")
    about = SimpleNamespace(library_name="transformers", config={})
    setattr(command, "verify_on_hub", lambda *_told: about)  # noqa: B010

    @cache
    def sizes(folder: str, kind: str) -> tuple[float, float]:
        asked = SimpleNamespace(
            model_name=folder, library_name="transformers", trust_remote_code=False, dtypes=[kind]
        )
        (_, _, loaded, training) = command.gather_data(asked)[0]
        return loaded, max(training.values())

    def ask(row: Row, folder: str) -> float:
        kind = {"nf4": "int4", "int8": "int8", "": "float32" if stored(row) == "fp32" else "float16"}[
            bits(row)
        ]
        loaded, training = sizes(folder, kind)
        return float((training if row["update"] == "full" else loaded) / GIB)

    return ask


def ask_tinyforge() -> Ask:
    """Return tinyforge's planner, which adapts every linear layer."""
    module = import_module("tinyforge.finetune")
    shape = cache(module.model_shape)

    def ask(row: Row, folder: str) -> float:
        if row["update"] == "full":
            raise ValueError("no whole fine-tuning")
        plain = "liger" not in str(row["loss"]).lower() and "chunk" not in str(row["loss"]).lower()
        setting = module.FTConfig(
            max_len=row["seq_len"], lora_r=(row["lora"] or {}).get("r") or 8, chunked_ce=not plain
        )
        quant, batch = "4bit" if row["quant"] else "none", row["micro_batch"] or 1
        found = module.estimate_vram_gb(shape(folder), setting, quant, checkpointed(row), batch)
        return float(found - (0 if runtime_counts(row) else 0.6))

    return ask


# Name -> (distribution, how it is asked).
TOOLS: dict[str, tuple[str, Callable[[], Ask]]] = {
    "ft-magic": ("ft-magic", ask_ft_magic),
    "fitcheck-llm": ("fitcheck-llm", ask_fitcheck),
    "canifinetune": ("canifinetune", ask_canifinetune),
    "vramcalc": ("vramcalc", ask_vramcalc),
    "ftuneai": ("ftuneai", ask_ftuneai),
    "tinyforge": ("tinyforge", ask_tinyforge),
    "hf-vram-calc": ("hf-vram-calc", ask_hf_vram_calc),
    "accelerate": ("accelerate", ask_accelerate),
    "gpu-estimator": ("gpu-estimator", ask_gpu_estimator),
    "alloc": ("alloc", ask_alloc),
}
