"""Parameter counts from config.json alone, against the totals that were published."""

import pytest

from ft_magic.errors import ModelError
from ft_magic.models.architecture import architecture


def config(model_type, hidden, layers, heads, kv_heads, inner, vocab, **extra):
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocab,
    } | extra


LLAMA_3_8B = config("llama", 4096, 32, 32, 8, 14336, 128256)
DEEPSEEK_V3 = config(
    "deepseek_v3", 7168, 61, 128, 128, 18432, 129280, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
    qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
    moe_intermediate_size=2048, first_k_dense_replace=3,
)  # fmt: skip
# Totals as each model's card or safetensors index on the Hub gives them.
PUBLISHED = [
    (config("llama", 4096, 32, 32, 32, 11008, 32000), 6_738_415_616),  # Llama 2 7B
    (LLAMA_3_8B, 8_030_261_248),
    (config("llama", 576, 30, 9, 3, 1536, 49152, tie_word_embeddings=True), 134_515_008),  # SmolLM2 135M
    (config("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096),
    (config("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8), 46_702_792_704),
    (config("qwen2", 3584, 28, 28, 4, 18944, 152064), 7_615_616_512),  # Qwen2.5 7B
    (config("qwen3", 4096, 36, 32, 8, 12288, 151936, head_dim=128), 8_190_735_360),
    (
        config("qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128, num_experts=128, moe_intermediate_size=768),
        30_532_122_624,  # Qwen3 30B A3B
    ),
    (config("gemma2", 2304, 26, 8, 4, 9216, 256000, head_dim=256), 2_614_341_888),
    (config("phi", 2560, 32, 32, 32, 10240, 51200), 2_779_683_840),  # Phi 2
    (config("phi3", 3072, 32, 32, 32, 8192, 32064), 3_821_079_552),
    (config("olmoe", 2048, 16, 16, 16, 1024, 50304, num_experts=64), 6_919_161_856),
    ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
     124_439_808),
    (config("gpt_neox", 6144, 44, 64, 64, 24576, 50432), 20_554_567_680),  # GPT-NeoX 20B, rounded vocabulary
    (DEEPSEEK_V3, 671_026_419_200 - 58 * 256),  # without the routing biases, which are no parameters
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "total"), PUBLISHED, ids=lambda value: str(value)[:40])
def test_the_parts_of_a_model_sum_to_its_published_total(sizes, total):
    assert architecture(sizes).parameters == total


def test_the_parts_are_the_ones_quantizers_and_optimizers_tell_apart():
    parts = architecture(LLAMA_3_8B).parts
    assert parts["embedding"] == parts["head"] == 128256 * 4096
    assert parts["attention"] == 32 * 4096 * (4096 + 1024 + 1024 + 4096)
    assert parts["mlp"] == 32 * 3 * 4096 * 14336
    assert parts["norms"] == (2 * 32 + 1) * 4096
    assert parts["biases"] == parts["experts"] == 0


def test_a_token_visits_few_of_the_experts_that_are_stored():
    mixtral = architecture(config("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8))
    assert mixtral.parts["experts"] == 32 * 8 * 3 * 4096 * 14336
    assert (mixtral.experts, mixtral.experts_per_token, mixtral.inner) == (8, 2, 2 * 14336)


def test_latent_attention_and_dense_first_layers_are_counted():
    deepseek = architecture(DEEPSEEK_V3)
    assert [block.layers for block in deepseek.blocks] == [3, 58]
    assert (deepseek.head_dim, deepseek.value_dim) == (192, 128)


def test_an_unknown_architecture_is_counted_like_llama_and_says_so():
    strange = architecture({**LLAMA_3_8B, "model_type": "brand_new"})
    assert not strange.known
    assert strange.parameters == 8_030_261_248


def test_a_config_of_something_else_is_refused():
    with pytest.raises(ModelError, match="num_attention_heads"):
        architecture({"model_type": "t5", "d_model": 512})


def test_the_language_part_of_a_model_that_also_sees_is_read():
    assert architecture({"model_type": "llava", "text_config": LLAMA_3_8B}).parameters == 8_030_261_248
