"""Settings in the words of TRL, Liger and Unsloth, and moments besides the step: loading, references, generation."""

from __future__ import annotations

import pytest

import ft_magic as ft
from ft_magic.errors import SpecError
from ft_magic.memory.cards import CARDS, UNSEEN, find_card
from ft_magic.memory.logits import chunk_tokens
from ft_magic.memory.question import setting
from ft_magic.memory.table import MODELS

GIB = 2**30
SEVEN = MODELS["7B"]
LLAMA_3 = {**SEVEN, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
EXPERTS = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
}  # fmt: skip


def test_unsloth_keeps_one_input_where_peft_keeps_a_copy_for_each_adapter():
    plain = ft.estimate_memory(SEVEN, gradient_checkpointing=False, micro_batch_size=4).parts["activations"]
    fused = ft.estimate_memory(
        SEVEN, gradient_checkpointing=False, micro_batch_size=4, backend="unsloth"
    ).parts["activations"]
    # A layer and token by kernels/fast_lora.py, rms_layernorm.py and a flash kernel, in 16 bit: two norms' inputs, two
    # inputs of projections, queries, keys, values and their result, gate and up; and fp32 sums and statistics.
    tokens, hidden, inner = 4 * 2048, 4096, 11008
    a_layer = 2 * (2 + 2 + 4) * hidden + 2 * 2 * inner + 4 * 32 + 2 * 4
    assert fused == pytest.approx(32 * tokens * a_layer, rel=0.04)
    assert plain > 1.5 * fused


def test_unsloth_cuts_its_loss_into_a_multiple_of_four_chunks_within_its_budget():
    # 16 bytes a logit of 32,768 tokens are 62.6 GiB: 15.7 times the budget, so 64 chunks (a multiple of 4) of 4 GiB / 4.
    assert chunk_tokens(32_768, 128_256, 4 * GIB) == 512
    # 1,000 logits fit four times over: one chunk.
    assert chunk_tokens(1000, 1000, 4 * GIB) == 1000


@pytest.mark.parametrize(
    ("word", "kind"),
    [("nll", "full"), ("chunked_nll", "chunked"), ("liger", "fused"), ("unsloth", "budgeted")],
)
def test_losses_have_the_names_their_libraries_give_them(word, kind):
    assert setting(loss=word).loss.kind == kind


def test_usual_losses_are_those_of_the_backend():
    assert setting().loss.kind == "chunked"
    assert setting(backend="liger").loss.kind == "fused"
    assert setting(backend="unsloth").loss.kind == "budgeted"
    assert setting(method="grpo").loss.kind == setting(method="dpo").loss.kind == "log_probs_kernel"
    assert setting(gradient_checkpointing="unsloth").checkpointing == "offloaded"


@pytest.mark.parametrize("wrong", [{"loss": "magic"}, {"backend": "magic"}])
def test_words_that_mean_nothing_are_refused(wrong):
    with pytest.raises(SpecError, match="magic"):
        setting(**wrong)


def test_log_probabilities_in_trls_kernel_need_two_fp32_tensors_of_logits():
    full = ft.estimate_memory(LLAMA_3, method="dpo", micro_batch_size=2).parts["logits and loss"]
    # The logits as accelerate returns them, and their gradient.
    assert full == pytest.approx(8 * 4 * 2048 * 128256, rel=0.05)


def test_layers_trained_whole_cost_a_copy_a_gradient_and_two_states():
    plain = ft.estimate_memory(LLAMA_3, accumulation=True)
    saved = ft.estimate_memory(LLAMA_3, accumulation=True, modules_to_save=("embed_tokens", "lm_head"))
    more = sum(saved.parts[part] - plain.parts[part] for part in ("adapter", "gradients", "optimizer"))
    assert more == 8 * 2 * 128256 * 4096


def test_loading_is_the_peak_where_training_needs_less():
    tiny = {"max_length": 8, "lora_r": 1, "target_modules": ("q_proj",), "accumulation": False}
    found = ft.estimate_memory(LLAMA_3, update="qlora", **tiny)
    large = ft.estimate_memory(LLAMA_3, update="qlora", max_length=4096, micro_batch_size=4)
    assert large.instant != "load"
    if found.instant == "load":  # one matrix in 16 bit beside its quantized self
        assert found.parts["workspace"] >= 2 * 4096 * 14336


def test_packed_experts_are_neither_quantized_nor_found_by_lora():
    found = ft.estimate_memory(EXPERTS, update="qlora", target_modules=("q_proj", "gate_proj"))
    experts = 48 * 128 * 3 * 2048 * 768
    assert found.parts["unquantized weights"] > 2 * experts
    assert "Experts stay in 16 bit" in " ".join(found.notes)
    attention_alone = ft.estimate_memory(EXPERTS, update="qlora", target_modules=("q_proj",))
    assert found.parts["adapter"] == attention_alone.parts["adapter"]


def test_a_reward_model_of_another_size_is_held_beside_the_policy():
    alone = ft.estimate_memory(SEVEN, method="ppo")
    judged = ft.estimate_memory(SEVEN, method="ppo", other_parameters=1_000_000_000)
    assert judged.parts["other models"] - alone.parts["other models"] == 2_000_000_000


def test_answers_of_another_engine_need_no_cache_here():
    asked = {
        "method": "grpo",
        "max_completion_length": 1536,
        "gradient_checkpointing": "offloaded",
        "loss": "chunked",
    }
    own = ft.estimate_memory(SEVEN, generation_batch=32, **asked)
    other = ft.estimate_memory(SEVEN, generation_batch=0, **asked)
    assert own.instant == "generation"
    # Keys and values in 16 bit of 32 answers, and one layer's copy while it grows.
    assert own.parts["KV cache"] == 32 * 2048 * 33 * 2 * 4096 * 2
    assert other.parts["KV cache"] == 0


def test_windows_bound_what_a_layer_keeps_of_the_past():
    gemma = {
        "model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 10240, "vocab_size": 262208, "sliding_window": 1024,
    }  # fmt: skip
    asked = {
        "method": "grpo",
        "max_length": 8192,
        "generation_batch": 64,
        "gradient_checkpointing": "offloaded",
    }
    found = ft.estimate_memory(gemma, loss="chunked", max_completion_length=8000, **asked)
    a_token = 2 * 4 * 256 * 2
    # Five layers keep 1,024 tokens, the sixth all; that one is copied while it grows.
    assert found.parts["KV cache"] == 64 * a_token * (5 * 1024 + 2 * 8192)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("Tesla T4", "T4"), ("NVIDIA A10G", "A10G"), ("NVIDIA A10", "A10"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"),
        ("Tesla V100-SXM2-32GB", "V100-32"), ("Tesla V100-SXM2-16GB", "V100"), ("A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100 80GB PCIe", "A100-80"), ("NVIDIA GeForce RTX 3080 Ti", "3080TI"), ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA RTX 6000 Ada Generation", "6000ADA"), ("NVIDIA GeForce RTX 5090", "5090"),
    ],
)  # fmt: skip
def test_a_driver_s_name_finds_its_card(name, card):
    assert find_card(name) is CARDS[card]


def test_every_card_says_where_its_total_was_seen():
    assert all(card.source == UNSEEN or "#" in card.source for card in CARDS.values())
