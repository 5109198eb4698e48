"""The traced step against published measurements and numbers by hand; against real steps in the file beside."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from torch.utils.checkpoint import DefaultDeviceType
from trl import DPOTrainer
from trl.trainer.utils import selective_log_softmax

import ft_magic
from ft_magic.errors import ModelError, SpecError
from ft_magic.memory.allocator import CachingAllocator, replay
from ft_magic.memory.cards import CARDS
from ft_magic.memory.optimizers import OPTIMIZERS
from ft_magic.memory.records import read_setting
from ft_magic.memory.setting import (
    ATTENTION,
    GPTQ_BITS,
    NF4_BITS,
    NF4_DOUBLE_BITS,
    Adapter,
    Loss,
    Quantization,
    Setting,
)
from ft_magic.memory.tracing import process, trace, trace_record

MIB = 1 << 20
TINY = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
}
MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
LORA = Adapter(rank=8)
NF4 = Quantization(NF4_DOUBLE_BITS, rest_width=4, norm_width=4)
STEP = Setting(adapter=None, optimizer=OPTIMIZERS["adamw_torch"])
DATA = Path(os.environ.get("FT_MAGIC_DATA", Path(ft_magic.__file__).parents[2] / "shared" / "data"))
ROWS = DATA / "memory" / "measured_peaks.jsonl"


def test_full_training_of_mistral_7b_needs_what_was_measured_on_an_a100():
    # 72,434,837,504 bytes: fms-acceleration, a100_80gb.csv, 4 x 4096 tokens, bf16, AdamW foreach
    setting = replace(
        STEP, micro_batch=4, length=4096, checkpointing="layers", attention="flash", loss=Loss("shifted")
    )
    traced = trace(MISTRAL, setting, CARDS["A100-80"])
    assert traced.allocated_bytes == pytest.approx(72_434_837_504, rel=0.0005)
    assert traced.instant == "optimizer"
    weights = 2 * 7_241_732_096
    assert traced.parts["weights"] == pytest.approx(weights, rel=1e-4)
    assert traced.parts["gradients"] == weights
    assert traced.parts["optimizer"] == 3 * weights  # two moments and the copy foreach makes


@pytest.mark.parametrize(
    "changed",
    [
        {"adapter": LORA, "quantization": NF4, "checkpointing": "layers", "reentrant": True},
        {"optimizer": OPTIMIZERS["adamw_8bit"], "accumulates": True},
        {"adapter": LORA, "checkpointing": "offloaded"},
        {"loss": Loss("fused"), "fused_norms": True, "fused_mlp": True},
        {"loss": Loss("chunked")},
        {
            "adapter": LORA,
            "loss": Loss("budgeted"),
            "fused_norms": True,
            "fused_mlp": True,
        },
        {"method": "dpo", "sides": 2, "adapter": LORA, "reference": "adapter", "autocast_width": 2},
        {"method": "dpo", "sides": 2, "reference": "copy", "frozen_copies": 1, "checkpointing": "layers"},
        {
            "method": "kto",
            "reference": "precomputed",
            "loss": Loss("log_probs_kernel"),
            "evaluation_batch": 4,
        },
        {"method": "orpo", "sides": 2, "adapter": LORA},
        {"method": "simpo", "sides": 2, "adapter": LORA},
        {
            "method": "grpo",
            "adapter": LORA,
            "answer_length": 192,
            "generation_batch": 4,
            "reference": "adapter",
        },
        {"method": "ppo", "answer_length": 64, "generation_batch": 2},
        {"method": "ppo", "adapter": LORA, "answer_length": 64, "generation_batch": 2},
        {"method": "reward", "sides": 2, "adapter": LORA},
    ],
    ids=lambda changed: "-".join(
        str(changed.get(key, "")) for key in ("method", "checkpointing", "reference")
    ),
)
def test_five_layers_stretched_say_what_all_layers_say(changed):
    config = {**TINY, "num_hidden_layers": 9}
    setting = replace(STEP, micro_batch=2, length=256, **changed)
    whole = trace(config, setting, depth="full")
    short = trace(config, setting, depth="short")
    assert (short.layers_traced, whole.layers_traced) == (5, 9)
    assert short.allocated_bytes == pytest.approx(whole.allocated_bytes, rel=0.002)
    assert short.reserved_bytes == pytest.approx(whole.reserved_bytes, abs=4 * MIB)
    assert short.trained_parameters == whole.trained_parameters
    assert short.instant == whole.instant


def test_layers_that_differ_are_all_traced():
    config = {
        **TINY,
        "model_type": "deepseek_v3",
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 2,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 64,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 32,
    }
    assert trace(config, replace(STEP, length=32), depth="short").layers_traced == 6


# a layer's matrices: q and o 128x128, k and v 64x128, three of 256x128
LINEAR = 3 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128)


def resident(setting):
    found = trace(TINY, replace(setting, length=32))
    return next(row for row in found.timeline if row.name == "resident").parts


def test_a_quantized_base_takes_half_a_byte_a_weight_and_its_scales():
    parts = resident(replace(STEP, adapter=LORA, quantization=Quantization(NF4_BITS)))
    embeddings = 2 * 2 * 1024 * 128
    assert parts["quantization constants"] == 4 * LINEAR // 64
    # seven norms, two rows of frequencies
    assert parts["weights"] - LINEAR // 2 - embeddings == 9 * 512


def test_gptq_keeps_a_scale_a_zero_and_the_order_of_rows():
    parts = resident(replace(STEP, adapter=LORA, quantization=Quantization(GPTQ_BITS, keeps_width=False)))
    inputs = 3 * (6 * 128 + 256)  # an int32 each; down_proj reads 256
    blocks = 3 * 7 * 3 * 512  # what rounding to 512 may add
    assert parts["quantization constants"] == pytest.approx(
        LINEAR // 128 * 2.5 + 4 * inputs + blocks / 2, abs=blocks / 2
    )


def test_quantized_weights_are_whole_only_while_they_are_used():
    base = replace(STEP, adapter=LORA, quantization=NF4, length=32)
    top = max(trace(TINY, base).timeline, key=lambda row: row.parts.get("dequantized weights", 0))
    # the largest matrix, in 16 bit: one at a time, and beside it the copy in fp32 that an fp32 stream asks for
    assert top.parts.get("dequantized weights", 0) <= (2 + 4) * 256 * 128


def test_recomputing_offloading_and_paging_save_what_they_say():
    setting = replace(STEP, micro_batch=2, length=512, adapter=LORA)
    kept, recomputed, offloaded = (
        trace({**TINY, "num_hidden_layers": 8}, replace(setting, checkpointing=kind)).parts["activations"]
        for kind in ("none", "layers", "offloaded")
    )
    assert recomputed < kept / 2
    # each of the other seven layers' inputs leaves: 1024 tokens of 128 values of two bytes
    assert recomputed - offloaded == pytest.approx(7 * 1024 * 128 * 2, rel=0.2)
    full = replace(STEP, length=32)
    held, paged = (
        trace(TINY, replace(full, optimizer=OPTIMIZERS[name])) for name in ("adamw_8bit", "paged_adamw_8bit")
    )
    # tensors of 100,000 values and more: embedding and head, 1024 x 128; two states of a byte and a scale per 256
    saved = 2 * 2 * (1024 * 128 + 4 * 1024 * 128 // 256)
    assert held.parts["optimizer"] - paged.parts["optimizer"] == saved


def test_losses_hold_the_copies_of_the_logits_their_code_makes():
    # 2048 tokens, 16384 words: a byte a logit is 32 MiB; bf16 weights, hidden states are next to nothing
    config = {**TINY, "vocab_size": 16384, "num_hidden_layers": 1, "tie_word_embeddings": True}
    logits = 2048 * 16384

    def copies(kind, **changed):
        setting = replace(STEP, micro_batch=2, length=1024, loss=Loss(kind), **changed)
        parts = trace(config, setting).timeline
        return max(row.parts.get("logits and loss", 0) for row in parts) / logits

    # fp32: log-softmax 4, gradient of the loss 4, of the softmax 4; the logits were dropped before
    assert copies("full") == pytest.approx(12, abs=0.2)
    # the logits, their fp32 copy, its shifted copy and the log-softmax are alive together
    assert copies("shifted") == pytest.approx(14, abs=0.2)
    # the same without the softmax: the kernel writes over its input
    assert copies("inplace") == pytest.approx(10, abs=0.2)
    # chunks of 256 of 2048 tokens
    assert copies("chunked") < 4
    # a chunk of 2048 * 128 / 16384 = 16 tokens is nothing; two gradients of the output layer, 16 bits a weight
    assert copies("fused") == pytest.approx(2 * 2 * 128 / 2048, abs=0.05)


def test_fused_norms_and_gates_keep_less():
    setting = replace(STEP, micro_batch=2, length=512)
    plain = trace(TINY, setting).parts["activations"]
    fused = trace(TINY, replace(setting, fused_norms=True, fused_mlp=True)).parts["activations"]
    # each of 7 norms keeps its input in fp32 and the normed values in 16 bits, fused its input in 16 bits;
    # each of 3 gates keeps its activation, fused nothing but its inputs
    norms, gates = 7 * 128 * (4 + 2 - 2), 3 * 256 * 2
    assert plain - fused == pytest.approx(1024 * (norms + gates), rel=0.01)


def test_ppo_with_an_adapter_holds_one_base_and_without_three():
    setting = replace(STEP, method="ppo", length=64, answer_length=32, generation_batch=1)
    shared = trace(TINY, replace(setting, adapter=LORA))
    apart = trace(TINY, setting)
    base = next(row for row in trace(TINY, replace(STEP, length=16)).timeline if row.name == "resident")
    alone = base.parts["weights"]
    assert shared.parts["weights"] == alone
    head = 2 * 1024 * 128  # the values' trunk has no language head
    assert apart.parts["weights"] + apart.parts["other models"] == pytest.approx(3 * alone - head, rel=0.01)


def test_further_models_and_copies_of_an_adapter_are_held():
    alone, beside = (
        resident(replace(STEP, adapter=replace(LORA, sets=sets), other_weights=weights))
        for sets, weights in ((0, 0), (1, 1_000_000))
    )
    assert beside["adapter"] == 2 * alone["adapter"]
    assert beside["other models"] == pytest.approx(2_000_000, abs=512)


def test_answering_costs_the_cache_of_every_answer():
    setting = replace(
        STEP, method="grpo", micro_batch=1, length=512, answer_length=504, generation_batch=64, adapter=LORA
    )
    parts = next(row for row in trace(TINY, setting).timeline if row.name == "generation").parts
    # keys and values of 2 heads of 32, 2 bytes, 3 layers, 64 answers of 511 tokens and one layer's old pair or half
    one = 2 * 32 * 2 * 64 * 511
    assert 2 * 3 * one <= parts["KV cache"] <= (2 * 3 + 2) * one


def test_attention_on_a_card_without_flash_that_cannot_group_heads_grows_with_the_square_of_the_length():
    def activations(card, length):
        setting = replace(STEP, length=length, adapter=LORA)
        return trace(TINY, setting, CARDS[card]).parts["activations"]

    assert activations("A100-80", 2048) / activations("A100-80", 512) == pytest.approx(4, rel=0.05)
    assert activations("T4", 2048) / activations("T4", 512) > 8


def test_tracing_leaves_the_libraries_as_they_were():
    before = torch.nn.functional.scaled_dot_product_attention, DefaultDeviceType.get_device_type()
    base = replace(STEP, length=16, autocast_width=2, checkpointing="layers", adapter=LORA)
    for changed in (
        {"reentrant": True},
        {"method": "dpo", "sides": 2, "loss": Loss("log_probs_kernel"), "reference": "adapter"},
    ):
        trace(TINY, replace(base, **changed))
    assert (torch.nn.functional.scaled_dot_product_attention, DefaultDeviceType.get_device_type()) == before
    assert not torch.is_autocast_enabled("cuda")
    assert DPOTrainer._compute_loss.__globals__["selective_log_softmax"] is selective_log_softmax
    with pytest.raises(RuntimeError, match=r"nonzero|Tensor.item"):
        torch.zeros(4, device="meta").nonzero()


def test_the_notebook_asks_for_a_trace_and_gets_no_torch():
    code = (
        "import sys; import ft_magic as ft;"
        f"found = ft.estimate_memory({TINY!r}, engine='trace', max_length=64, method='dpo', metric='allocated');"
        "print(found.peak_bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    asked = ft_magic.estimate_memory(TINY, engine="trace", max_length=64, method="dpo", metric="allocated")
    assert done.stdout.split() == [str(asked.peak_bytes), "False"]


def test_a_refusal_in_the_other_process_is_the_same_refusal():
    with pytest.raises(ModelError, match="does not know the architecture 'nonsense'"):
        process.ask({"model": {**TINY, "model_type": "nonsense"}, "asked": {"max_length": 16}})


def test_the_allocator_rounds_splits_and_merges_as_pytorch_does():
    small = replay([1], [0, 100])
    assert (small.allocated_bytes, small.reserved_bytes) == (512, 2 * MIB)
    # below 10 MiB a segment has 20 MiB: two blocks of 9 fit, and the last 2 are a block of their own
    large = replay([1, 2, 3], [0, 9 * MIB, 9 * MIB, 2 * MIB])
    assert (large.allocated_bytes, large.reserved_bytes) == (20 * MIB, 20 * MIB)
    # 11 MiB in a segment of 12: the rest of 1 MiB is too small to split off and counts as used
    assert replay([1], [0, 11 * MIB]).granted == {1: 12 * MIB}
    merged = CachingAllocator()
    for key in (1, 2):
        merged.allocate(key, 9 * MIB)
    for key in (1, 2):
        merged.release(key)
    merged.allocate(3, 20 * MIB)
    assert merged.reserved_bytes == 20 * MIB
    merged.release(3)
    merged.empty_cache()
    assert (merged.reserved_bytes, merged.peak_reserved_bytes) == (0, 20 * MIB)


def test_what_cannot_be_traced_is_refused_with_a_way_on():
    with pytest.raises(ModelError, match="does not know the architecture 'nonsense'"):
        trace({**TINY, "model_type": "nonsense"}, STEP)
    experts = {**TINY, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    for changed, problem in (
        ({"method": "distill"}, "method 'distill' cannot be traced"),
        ({"method": "dpo"}, "needs a reference"),
        ({"quantization": NF4}, "not trained itself"),
        ({"quantization": Quantization(8.0, 8.0), "adapter": LORA}, "8-bit weights"),
        ({"quantization": NF4, "adapter": replace(LORA, targets=ATTENTION)}, "quantized experts"),
        ({"loss": Loss("held_chunks")}, "torchtune and litgpt"),
        ({"fused_lora": True, "adapter": LORA}, "Unsloth"),
    ):
        with pytest.raises(SpecError, match=problem):
            trace(experts, replace(STEP, length=16, **changed))


def rows():
    if not ROWS.exists():
        pytest.skip(f"{ROWS} is not here: set FT_MAGIC_DATA to the folder of the published measurements")
    return {row["id"]: row for row in map(json.loads, ROWS.read_text().splitlines())}


def test_published_measurements_are_met():
    chosen = (
        "fitcheck_t4-019",
        "fitcheck_t4-043",
        "canifinetune_4080-002",
        "canifinetune_4080-011",
        "fms_acceleration-033",
        "fms_acceleration-127",
        "fms_acceleration-091",
        "fms_acceleration-165",
    )
    found = rows()
    errors = [
        abs(trace_record(found[name]).peak_bytes / (found[name]["peak_gib"] * 2**30) - 1) for name in chosen
    ]
    assert median(errors) < 0.003
    assert max(errors) < 0.01


def test_keys_that_an_older_model_returned_are_counted():
    # transformers 4's GPTBigCode keeps c_attn's whole result, 2304 values a token, of each of 24 layers
    row = rows()["fms_acceleration-003"]
    assert read_setting(row).checkpointing == "layers"
    found = trace_record(row)
    assert found.peak_bytes == pytest.approx(row["peak_gib"] * 2**30, rel=0.005)
    assert found.parts["activations"] > 24 * (2304 + 2048) * 2 * 8 * 2048


def test_rows_of_other_code_are_refused():
    row = next(row for row in rows().values() if row["group"] == "torchtune")
    with pytest.raises(SpecError, match=f"{row['id']} cannot be traced: torchtune"):
        trace_record(row)
