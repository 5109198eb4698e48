"""The traced step against real steps on the CPU, published measurements and numbers by hand."""

import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import peft
import torch
import transformers
from torch.utils.checkpoint import DefaultDeviceType

import ft_magic
from ft_magic.errors import ModelError, SpecError
from ft_magic.memory.allocator import CachingAllocator, replay
from ft_magic.memory.cards import CARDS, CPU
from ft_magic.memory.tracing import (
    Adapter,
    Quantized,
    TraceSettings,
    record_settings,
    trace,
    trace_record,
)

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
LORA = Adapter(options={"r": 8, "lora_alpha": 8, "target_modules": "all-linear"})
CPU = TraceSettings(weights="float32", micro_batch=2, length_tokens=128, optimizer="adamw_loop", card=CPU)
DATA = Path(os.environ.get("FT_MAGIC_DATA", Path(ft_magic.__file__).parents[2] / "shared" / "data"))
ROWS = DATA / "memory" / "measured_peaks.jsonl"


def real_step(settings, values=TINY):
    """A plain training loop on real tensors; bytes as torch's profiler saw the CPU's allocator."""
    config = transformers.AutoConfig.for_model(**values)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=settings.attention, dtype=getattr(torch, settings.weights)
    )
    model.config.use_cache = False
    if settings.adapter:
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings.adapter.options))
    if settings.checkpointing:
        kind = {"use_reentrant": settings.checkpointing == "reentrant"}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
        if settings.adapter:
            model.enable_input_require_grads()
    model.train()
    trained = [row for row in model.parameters() if row.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=False)
    ids = torch.randint(0, 1024, (settings.micro_batch, settings.length_tokens))
    mask = torch.ones_like(ids)
    tensors = [*model.parameters(), *model.buffers(), ids, mask]
    model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    states = [value for row in optimizer.state.values() for value in row.values()]
    held = sum({row.data_ptr(): row.untyped_storage().nbytes() for row in [*tensors, *states]}.values())
    loss, forward, kept = allocations(lambda: model(input_ids=ids, attention_mask=mask, labels=ids).loss)
    _, backward, _ = allocations(loss.backward)
    gradients = sum(row.grad.nbytes for row in trained)
    _, update, _ = allocations(optimizer.step)
    return {
        "forward": held + forward,
        "backward": held + kept + backward,
        "optimizer": held + gradients + update,
        "gradients": gradients,
        "states": sum(row.nbytes for row in states),
    }


def allocations(work):
    """Run ``work``; return its result, the most bytes above the start, and the bytes left."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = work()
    rows = [row for row in profile.profiler.kineto_results.events() if row.name() == "[memory]"]
    now = most = 0
    for row in sorted(rows, key=lambda row: row.start_ns()):
        now += row.nbytes()
        most = max(most, now)
    return result, most, now


@pytest.mark.parametrize(
    "settings",
    [
        CPU,
        replace(CPU, adapter=LORA, checkpointing="non_reentrant"),
        replace(CPU, adapter=LORA, checkpointing="reentrant", attention="eager"),
        replace(CPU, adapter=LORA, weights="bfloat16"),
    ],
    ids=["full", "lora-recomputed", "lora-reentrant-eager", "lora-bf16"],
)
def test_a_trace_equals_what_a_real_step_allocates_on_the_cpu(settings):
    traced = {row.name: row for row in trace(TINY, settings).timeline}
    real = real_step(settings)
    for name in ("forward", "backward", "optimizer"):
        assert traced[name].allocated_bytes == pytest.approx(real[name], rel=0.003)
    assert traced["optimizer"].parts["gradients"] == real["gradients"]
    # AdamW's counters of four bytes a tensor are no state the trace counts on every device
    assert traced["forward"].parts["optimizer"] == pytest.approx(real["states"], rel=0.01)


@pytest.mark.slow
def test_a_trace_of_the_small_model_equals_its_real_step():
    config = json.loads((Path(ft_magic.model_path("demo")) / "config.json").read_text())
    settings = replace(CPU, adapter=LORA, micro_batch=1, length_tokens=256)
    traced = {row.name: row.allocated_bytes for row in trace(config, settings).timeline}
    real = real_step(settings, config)
    for name in ("forward", "backward", "optimizer"):
        assert traced[name] == pytest.approx(real[name], rel=0.003)


def test_full_training_of_mistral_7b_needs_what_was_measured_on_an_a100():
    # 72,434,837,504 bytes: fms-acceleration, a100_80gb.csv, 4 x 4096 tokens, bf16, AdamW foreach
    settings = TraceSettings(
        micro_batch=4,
        length_tokens=4096,
        checkpointing="non_reentrant",
        attention="flash_attention_2",
        loss="4.46",
    )
    traced = trace(MISTRAL, settings)
    assert traced.allocated_bytes == pytest.approx(72_434_837_504, rel=0.0005)
    assert traced.instant == "optimizer"
    weights = 2 * 7_241_732_096
    assert traced.parts["weights"] == pytest.approx(weights, rel=1e-4)
    assert traced.parts["gradients"] == weights
    assert traced.parts["optimizer"] == 3 * weights  # two moments and the copy foreach makes


@pytest.mark.parametrize(
    "changed",
    [
        {"adapter": LORA, "quantized": Quantized(), "checkpointing": "reentrant"},
        {"optimizer": "adamw_8bit", "accumulation": 2},
        {"method": "dpo", "adapter": LORA, "autocast": "bfloat16"},
        {"method": "dpo", "reference": True, "checkpointing": "non_reentrant"},
        {"method": "grpo", "adapter": LORA, "prompt_tokens": 64},
        {"method": "reward", "adapter": LORA},
    ],
)
def test_five_layers_stretched_say_what_all_layers_say(changed):
    config = {**TINY, "num_hidden_layers": 12}
    settings = replace(TraceSettings(micro_batch=2, length_tokens=256), **changed)
    whole = trace(config, replace(settings, depth="full"))
    short = trace(config, replace(settings, depth="short"))
    assert (short.layers_traced, whole.layers_traced) == (5, 12)
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
    assert trace(config, TraceSettings(length_tokens=32, depth="short")).layers_traced == 6


def test_a_quantized_base_takes_half_a_byte_a_weight_and_its_scales():
    settings = TraceSettings(adapter=LORA, quantized=Quantized(double=False, rest="stored"), length_tokens=32)
    resident = next(row for row in trace(TINY, settings).timeline if row.name == "resident")
    # a layer: q and o 128x128, k and v 64x128, three of 256x128
    linear = 3 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128)
    embeddings = 2 * 2 * 1024 * 128
    assert resident.parts["quantization constants"] == 4 * linear // 64
    assert (
        resident.parts["weights"] - linear // 2 - embeddings == 9 * 512
    )  # seven norms, two rows of frequencies


def test_quantized_weights_are_whole_only_while_they_are_used():
    base = TraceSettings(adapter=LORA, quantized=Quantized(), length_tokens=32, micro_batch=1)
    top = max(trace(TINY, base).timeline, key=lambda row: row.parts.get("dequantized weights", 0))
    # the largest matrix, in 16 bit: one at a time, and beside it the copy in fp32 that an fp32 stream asks for
    assert top.parts.get("dequantized weights", 0) <= (2 + 4) * 256 * 128


def test_recomputing_and_paging_save_what_they_say():
    settings = TraceSettings(micro_batch=2, length_tokens=512, adapter=LORA)
    kept, recomputed = trace(TINY, settings), trace(TINY, replace(settings, checkpointing="non_reentrant"))
    assert recomputed.parts["activations"] < kept.parts["activations"] / 2
    full = TraceSettings(length_tokens=32)
    held = trace(TINY, replace(full, optimizer="adamw_8bit"))
    paged = trace(TINY, replace(full, optimizer="paged_adamw_8bit"))
    # tensors of 100,000 values and more: embedding and head, 1024 x 128; two states of a byte and a scale per 256
    saved = 2 * 2 * (1024 * 128 + 4 * 1024 * 128 // 256)
    assert held.parts["optimizer"] - paged.parts["optimizer"] == saved


def test_attention_on_a_card_without_flash_that_cannot_group_heads_grows_with_the_square_of_the_length():
    def activations(card, length):
        settings = TraceSettings(weights="float16", length_tokens=length, card=CARDS[card], adapter=LORA)
        return trace(TINY, settings).parts["activations"]

    assert activations("A100-80", 2048) / activations("A100-80", 512) == pytest.approx(4, rel=0.05)
    assert activations("T4", 2048) / activations("T4", 512) > 8


def test_tracing_leaves_the_libraries_as_they_were():
    before = torch.nn.functional.scaled_dot_product_attention, DefaultDeviceType.get_device_type()
    trace(TINY, TraceSettings(length_tokens=16, autocast="bfloat16", checkpointing="reentrant", adapter=LORA))
    assert (torch.nn.functional.scaled_dot_product_attention, DefaultDeviceType.get_device_type()) == before
    assert not torch.is_autocast_enabled("cuda")


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
        trace({**TINY, "model_type": "nonsense"}, TraceSettings())
    with pytest.raises(SpecError, match="method 'ppo' cannot be traced"):
        trace(TINY, TraceSettings(method="ppo"))
    with pytest.raises(SpecError, match="needs a reference"):
        trace(TINY, TraceSettings(method="dpo"))
    with pytest.raises(SpecError, match="not trained itself"):
        trace(TINY, TraceSettings(quantized=Quantized()))


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
    )
    found = rows()
    errors = [
        abs(trace_record(found[name]).peak_bytes / (found[name]["peak_gib"] * 2**30) - 1) for name in chosen
    ]
    assert median(errors) < 0.003
    assert max(errors) < 0.01


def test_rows_of_other_code_are_refused():
    row = next(row for row in rows().values() if "Liger" in row["loss"] and row["n_gpus"] == 1)
    with pytest.raises(SpecError, match=f"{row['id']} cannot be traced: loss"):
        record_settings(row)
