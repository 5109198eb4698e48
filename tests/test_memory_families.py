"""Parameter counts from config.json alone, against the class transformers builds, for every family of the table.

The models are built on the meta device: no weights, no download.
"""

from __future__ import annotations

import json
import random

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ft_magic.models.architecture import architecture  # noqa: E402
from ft_magic.models.families import FAMILIES  # noqa: E402

# One width for each head: 4 heads of 16 in 64 (some classes have no head_dim of their own).
SIZES = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 160, "vocab_size": 512, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
OLD = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 96, "vocab_size": 512}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}
# Nested dots need the class's own key; what a family adds to SIZES, one entry for each variant that changes a shape.
VARIANTS = {
    "llama": [{}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 24}],
    "mistral": [{"head_dim": 24}],
    "ministral": [{"head_dim": 24}], "ministral3": [{}], "cwm": [{}],
    "mixtral": [{"num_local_experts": 4}],
    "granite": [{"attention_bias": True, "mlp_bias": True}], "granite_swa": [{}],
    "granitemoe": [{"num_local_experts": 4}], "granitemoe_swa": [{"num_local_experts": 4}],
    "granitemoeshared": [{"num_local_experts": 4, "shared_intermediate_size": 40}],
    "smollm3": [{}, {"tie_word_embeddings": False, "attention_bias": True}],
    "arcee": [{"mlp_bias": True}], "apertus": [{"attention_bias": True}], "bitnet": [{}], "diffllama": [{}],
    "helium": [{"head_dim": 16}], "nanochat": [{}], "seed_oss": [{}, {"attention_out_bias": True, "mlp_bias": True}],
    "hyperclovax": [{}, {"use_post_norm": False}], "jais2": [{}, {"attention_bias": False, "mlp_bias": False}],
    "qwen2": [{}, {"tie_word_embeddings": True}],
    "qwen2_moe": [
        EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 40},
        EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1], "qkv_bias": False},
        EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2},
    ],
    "qwen3": [{"head_dim": 24}, {"attention_bias": True}],
    "qwen3_moe": [EXPERTS | {"num_experts": 4}, EXPERTS | {"num_experts": 4, "mlp_only_layers": [0, 2]}],
    "qwen3_next": [EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 40, "linear_num_key_heads": 2,
                              "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8}],
    "qwen3_5_text": [{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}],
    "qwen3_5_moe_text": [EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 40}],
    "gemma": [{"head_dim": 24}], "gemma2": [{"head_dim": 24}], "gemma3_text": [{"head_dim": 24}],
    "gemma3n_text": [{
        "num_hidden_layers": 6, "head_dim": 24, "intermediate_size": [96, 96, 96, 160, 160, 160], "laurel_rank": 8,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 300,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    }],
    "gemma4_text": [
        {"num_hidden_layers": 7, "head_dim": 24, "global_head_dim": 32, "hidden_size_per_layer_input": 16,
         "vocab_size_per_layer_input": 300, "num_kv_shared_layers": 0},
        {"num_hidden_layers": 8, "head_dim": 24, "global_head_dim": 32, "hidden_size_per_layer_input": 0,
         "attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True, "num_experts": 4,
         "top_k_experts": 2, "moe_intermediate_size": 48},
        {"num_hidden_layers": 6, "layer_types": ["sliding_attention", "full_attention"] * 3, "num_kv_shared_layers": 2,
         "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 300, "use_double_wide_mlp": True},
    ],
    "vaultgemma": [{"head_dim": 24}],
    "phi": [{}, {"qk_layernorm": True}], "phi3": [{}],
    "phimoe": [{"num_local_experts": 4}, {"num_local_experts": 4, "attention_bias": True, "lm_head_bias": True}],
    "gpt2": [OLD, OLD | {"n_inner": 100}], "gpt-sw3": [OLD],
    "gpt_bigcode": [OLD, OLD | {"multi_query": False}],
    "gpt_neo": [{"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]}],
    "gpt_neox": [{}, {"attention_bias": False}],
    "gptj": [OLD | {"rotary_dim": 8}], "codegen": [OLD | {"rotary_dim": 8}],
    "gpt_oss": [{"num_local_experts": 4, "head_dim": 24}],
    "bloom": [{"n_layer": 3, "n_head": 4}],
    "mpt": [{"d_model": 64, "n_layers": 3, "n_heads": 4}],
    "opt": [{"ffn_dim": 96, "word_embed_proj_dim": 64}], "biogpt": [{}],
    "xglm": [{"d_model": 64, "num_layers": 3, "attention_heads": 4, "ffn_dim": 96}],
    "falcon": [
        {}, {"multi_query": False, "bias": True}, {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"parallel_attn": False},
    ],
    "persimmon": [{}, {"qk_layernorm": False}],
    "starcoder2": [{}, {"use_bias": False, "tie_word_embeddings": False}],
    "stablelm": [{}, {"use_qkv_bias": True, "qk_layernorm": True}, {"use_parallel_residual": True}],
    "nemotron": [{"mlp_bias": True, "attention_bias": True}],
    "cohere": [{}, {"use_qk_norm": True}], "cohere2": [{}, {"attention_bias": True}],
    "glm": [{"head_dim": 16}, {"head_dim": 16, "attention_bias": False}], "glm4": [{"head_dim": 16}],
    "glm4_moe": [EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 2, "use_qk_norm": True, "head_dim": 16},
                 EXPERTS | {"n_routed_experts": 4, "attention_bias": True, "n_shared_experts": 2, "head_dim": 16}],
    "glm4_moe_lite": [EXPERTS | LATENT | {"n_routed_experts": 4, "q_lora_rank": 24}],
    "solar_open": [EXPERTS | {"n_routed_experts": 4, "head_dim": 16}],
    "dots1": [EXPERTS | {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}],
    "olmo": [{}, {"attention_bias": True}], "olmo2": [{}], "olmo3": [{}],
    "olmoe": [{"num_experts": 4}], "flex_olmo": [{"num_experts": 4}],
    "minimax_m2": [{"num_local_experts": 4, "head_dim": 24}],
    "mellum": [EXPERTS | {"num_experts": 4, "head_dim": 24}],
    "exaone4": [{}],
    "exaone_moe": [EXPERTS | {"num_experts": 4, "num_shared_experts": 1, "first_k_dense_replace": 2}],
    "ernie4_5": [{"use_bias": True}],
    "ernie4_5_moe": [{"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 48, "moe_num_shared_experts": 2,
                      "moe_layer_start_index": 1, "moe_layer_end_index": 2}],
    "hunyuan_v1_dense": [{"head_dim": 24}], "hunyuan_v1_moe": [{"num_experts": 4, "head_dim": 24}],
    "hy_v3": [EXPERTS | {"num_experts": 4}],
    "llama4_text": [
        {"num_local_experts": 4, "head_dim": 24, "interleave_moe_layer_step": 1},
        {"num_local_experts": 4, "head_dim": 24, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 200},
    ],
    "afmoe": [EXPERTS | {"num_experts": 4, "num_dense_layers": 1, "num_shared_experts": 1}],
    "deepseek_v2": [EXPERTS | LATENT | {"n_routed_experts": 4, "n_shared_experts": 2, "q_lora_rank": None,
                                        "first_k_dense_replace": 1}],
    "deepseek_v3": [EXPERTS | LATENT | {"n_routed_experts": 4, "q_lora_rank": 24, "first_k_dense_replace": 2,
                                        "n_group": 1, "topk_group": 1}],
    "minicpm3": [LATENT | {"q_lora_rank": 24}], "youtu": [LATENT | {"q_lora_rank": 24}],
    "lfm2": [{"layer_types": ["conv", "full_attention", "conv", "conv"]}, {"block_auto_adjust_ff_dim": False}],
}  # fmt: skip
CASES = [(name, more) for name, variants in VARIANTS.items() for more in variants]
# Own names instead of the usual ones: a class that reads n_embd must not be handed hidden_size as well.
OWN = {"gpt2", "gpt-sw3", "gpt_bigcode", "gptj", "codegen", "mpt", "xglm"}


def built(name, more):
    """Return the config and the parameters of the class transformers has for a family, on the meta device."""
    given = more if name in OWN else SIZES | more
    if name == "bloom":
        given = {key: value for key, value in given.items() if not key.startswith(("num_", "inter"))}
    made = transformers.AutoConfig.for_model(name, **{"vocab_size": 512} | given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(made)
    return made, sum(part.numel() for part in model.parameters())


@pytest.mark.parametrize(("name", "more"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_family_has_as_many_parameters_as_its_class(name, more):
    made, real = built(name, more)
    counted = architecture(json.loads(made.to_json_string(use_diff=False)))
    assert counted.known
    assert counted.parameters == real


def test_gemma_4_is_read_as_the_hub_writes_it_and_as_transformers_saves_it():
    more = next(more for more in VARIANTS["gemma4_text"] if more.get("attention_k_eq_v"))
    saved, real = built("gemma4_text", more)
    hub = {**SIZES, **more, "model_type": "gemma4_text", "vocab_size": 512}
    assert architecture(hub).parameters == architecture(saved.to_dict()).parameters == real


def test_every_family_of_the_table_is_checked_but_those_without_a_class():
    # "qwen" is the first Qwen, whose class is remote code; gemma3 is gemma3_text with a tower for pictures.
    assert set(FAMILIES) - set(VARIANTS) == {"qwen", "gemma3"}


@pytest.mark.parametrize("name", ["gemma3_text", "gemma3n_text", "gemma4_text", "llama4_text"])
def test_sizes_that_a_nested_config_leaves_out_are_the_class_defaults(name):
    made = transformers.AutoConfig.for_model(name).to_dict()
    for key, value in FAMILIES[name].sizes.items():
        if key in made:
            assert made[key] in (value, [value] * made["num_hidden_layers"]), key
    # All left out: as the Hub's files of models that also see do.
    nested = {"model_type": "made-up", "text_config": {"model_type": name}, "vision_config": {}}
    left_out = architecture(nested)
    assert left_out.parameters == architecture(made).parameters
    assert "vision_config" in " ".join(left_out.doubts)


@pytest.mark.parametrize("seed", range(20))
def test_random_sizes_of_the_usual_families_are_counted_exactly(seed):
    dice = random.Random(seed)
    name = dice.choice(
        ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "mistral", "smollm3"]
    )
    heads, groups = dice.choice([2, 4, 8]), dice.choice([1, 2])
    more = {
        "hidden_size": heads * 8 * dice.randint(1, 4), "num_attention_heads": heads,
        "num_key_value_heads": heads // groups, "num_hidden_layers": dice.randint(1, 7),
        "intermediate_size": dice.randint(20, 300), "vocab_size": dice.randint(100, 900),
        "tie_word_embeddings": dice.random() < 0.5,
    }  # fmt: skip
    made, real = built(name, more)
    assert architecture(made.to_dict()).parameters == real


@pytest.mark.parametrize(
    "name", ["bamba", "falcon_h1", "jamba", "mamba", "recurrent_gemma", "zamba2", "nemotron_h"]
)
def test_layers_that_are_no_attention_are_never_counted_in_silence(name):
    made = transformers.AutoConfig.for_model(name).to_dict()
    try:
        counted = architecture(made)
    except ValueError:
        return  # refused: a size every decoder has is missing
    assert not counted.known
    assert "not in the table" in " ".join(counted.doubts)


@pytest.mark.parametrize("name", ["bart", "t5", "pegasus", "whisper"])
def test_models_with_an_encoder_are_refused(name):
    with pytest.raises(ValueError, match="decoder"):
        architecture(transformers.AutoConfig.for_model(name).to_dict())
