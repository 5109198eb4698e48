"""What each ``model_type`` leaves out of its config: biases, norms, gates, ties, experts, names of its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})
_SIZES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Family:
    """What a ``model_type`` leaves out of its config (source: transformers' configuration and modeling files).

    Attributes:
        bias: which of the attention's projections have a bias: ``""``, ``"qkv"`` or ``"all"``.
        bias_switch: the key of the config that switches these on; empty where they always are.
        bias_default: what the switch means where the config leaves it out.
        out_bias: what decides the output projection alone: a key, or ``always``; empty where ``bias`` does.
        mlp_bias: the key that gives the feed-forward part biases, or ``always``.
        gated: whether the feed-forward part has a gate.
        norms: norm vectors of the hidden size a layer.
        final_norm: whether a norm follows the last layer.
        layer_norm: whether norms are LayerNorm, else RMSNorm.
        norm_bias: whether norms have a bias.
        norm_code: how the norm is written: empty as Llama's, ``wide`` (the weight multiplies in fp32: Gemma, OLMo 2),
            ``manual`` (Cohere's own LayerNorm).
        post_norm: whether norms follow attention and feed-forward part alone (OLMo 2).
        fused: projections that are one matrix: ``qkv``, ``gate_up``.
        head_norm: norms of queries and keys: ``head`` (a vector of ``head_dim`` each), ``width`` (of all heads).
        head_norm_switch: the key that switches these on; empty where they always are.
        tied: whether the embedding is shared when the config does not say.
        head_bias: whether the output layer has a bias: a key, or ``always``.
        positions: whether positions are learned vectors.
        positions_more: vectors beyond the longest length (OPT keeps two).
        parallel: whether attention and feed-forward part read the same norm.
        head_values: further values a query head has (attention sinks).
        layer_values: further values a layer has (a trained activation).
        expert_values: further values an expert has in the router.
        expert_bias: whether router and experts have biases.
        shared_experts: experts every token visits where the config does not say.
        dense_layers: how many first layers have no experts where the config does not say.
        extra: what else its layers or embeddings hold; see ``layers``.
        names: transformers' usual name of a size -> this family's.
        sizes: sizes its nested configs leave out, being the class's defaults.
    """

    bias: str = "all"
    bias_switch: str = "attention_bias"
    bias_default: bool = False
    out_bias: str = ""
    mlp_bias: str = "mlp_bias"
    gated: bool = True
    norms: int = 2
    final_norm: bool = True
    layer_norm: bool = False
    norm_bias: bool = False
    norm_code: str = ""
    post_norm: bool = False
    fused: tuple[str, ...] = ()
    head_norm: str = ""
    head_norm_switch: str = ""
    tied: bool = False
    head_bias: str = ""
    positions: bool = False
    positions_more: int = 0
    parallel: bool = False
    head_values: int = 0
    layer_values: int = 0
    expert_values: int = 0
    expert_bias: bool = False
    shared_experts: int = 0
    dense_layers: int = 0
    extra: str = ""
    names: Mapping[str, str] = field(default_factory=lambda: _NONE)
    sizes: Mapping[str, int] = field(default_factory=lambda: _SIZES)


def _plain(**parts: object) -> Family:
    """A family of 2019 to 2022: LayerNorm with biases, no gate."""
    usual = {"bias_switch": "", "mlp_bias": "always", "gated": False, "layer_norm": True, "norm_bias": True}
    return Family(**{**usual, **parts})  # type: ignore[arg-type]  # rows of a table, checked on real models


_OLD = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
}  # fmt: skip
_GPT2 = _plain(fused=("qkv",), tied=True, positions=True, names=_OLD)
_GPTJ = _plain(bias="", norms=1, head_bias="always", parallel=True, names=_OLD)
_LLAMA = Family()
_NO_BIAS = Family(bias="", mlp_bias="")
_TIED = Family(tied=True)
_GEMMA_3 = Family(norm_code="wide",
    norms=4, head_norm="head", tied=True,
    sizes={
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    },
)  # fmt: skip
_GEMMA_3N = Family(
    norms=4, head_norm="head", tied=True, extra="gemma3n",
    sizes={
        "vocab_size": 262_400, "hidden_size": 2048, "intermediate_size": 16_384, "num_hidden_layers": 35,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "num_kv_shared_layers": 15,
        "vocab_size_per_layer_input": 262_144, "hidden_size_per_layer_input": 256, "altup_num_inputs": 4,
        "laurel_rank": 64,
    },
)  # fmt: skip
_GEMMA_4 = Family(norm_code="wide",
    norms=4, head_norm="head", tied=True, extra="gemma4",
    sizes={
        "vocab_size": 262_144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512,
        "vocab_size_per_layer_input": 262_144, "hidden_size_per_layer_input": 256,
    },
)  # fmt: skip
_LINEAR = {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
           "linear_num_value_heads": 32, "linear_conv_kernel_dim": 4, "head_dim": 256}  # fmt: skip
_QWEN_NEXT = Family(norm_code="wide", head_norm="head", mlp_bias="", extra="gated_delta", sizes=_LINEAR)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": _LLAMA,
        "mistral": _NO_BIAS,
        "ministral": _NO_BIAS,
        "ministral3": _NO_BIAS,
        "mixtral": _NO_BIAS,
        "cwm": Family(bias=""),
        "granite": _LLAMA,
        "granite_swa": Family(tied=True, head_values=1),
        "granitemoe": Family(mlp_bias=""),
        "granitemoe_swa": Family(head_values=1, mlp_bias=""),
        "granitemoeshared": Family(mlp_bias=""),
        "smollm3": _TIED,
        "arcee": Family(gated=False),
        "apertus": Family(gated=False, mlp_bias="", head_norm="head", layer_values=2),
        "bitnet": Family(mlp_bias="", extra="sub_norms"),
        "diffllama": Family(mlp_bias="", extra="lambdas"),
        "helium": Family(norm_code="wide"),
        "nanochat": Family(gated=False, norms=0, final_norm=False, mlp_bias=""),
        "seed_oss": Family(bias_default=True, out_bias="attention_out_bias"),
        "hyperclovax": Family(extra="post_norms"),
        "jais2": _plain(bias_switch="attention_bias", bias_default=True, mlp_bias="mlp_bias"),
        "qwen": Family(bias="qkv", bias_switch="", mlp_bias=""),
        "qwen2": Family(bias="qkv", bias_switch="", mlp_bias=""),
        "qwen2_moe": Family(bias="qkv", bias_switch="qkv_bias", bias_default=True, mlp_bias=""),
        "qwen3": Family(head_norm="head", mlp_bias=""),
        "qwen3_moe": Family(head_norm="head", mlp_bias=""),
        "qwen3_next": _QWEN_NEXT,
        "qwen3_5_text": _QWEN_NEXT,
        "qwen3_5_moe_text": _QWEN_NEXT,
        "gemma": Family(norm_code="wide", tied=True, mlp_bias=""),
        "gemma2": Family(norm_code="wide", norms=4, tied=True, mlp_bias=""),
        "gemma3_text": _GEMMA_3,
        "gemma3": _GEMMA_3,
        "gemma3n_text": _GEMMA_3N,
        "gemma4_text": _GEMMA_4,
        "vaultgemma": Family(norm_code="wide", tied=True, mlp_bias=""),
        "phi": _plain(norms=1, head_bias="always", parallel=True, head_norm="head", head_norm_switch="qk_layernorm"),
        "phi3": Family(bias="", mlp_bias="", fused=("qkv", "gate_up")),
        "phimoe": Family(layer_norm=True, norm_bias=True, head_bias="lm_head_bias", mlp_bias=""),
        "gpt2": _GPT2,
        "gpt-sw3": _GPT2,
        "gpt_bigcode": _GPT2,
        "gpt_neo": _plain(
            bias="", out_bias="always", tied=True, positions=True,
            names={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
        ),
        "gpt_neox": _plain(fused=("qkv",), parallel=True, bias_switch="attention_bias", bias_default=True),
        "gptj": _GPTJ,
        "codegen": replace(_GPTJ, fused=("qkv",)),
        "gpt_oss": Family(norm_code="wide", bias_default=True, head_values=1, expert_bias=True, mlp_bias=""),
        "bloom": _plain(fused=("qkv",), tied=True, extra="embedding_norm",
            names={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
        ),
        "mpt": _plain(fused=("qkv",), bias="", mlp_bias="", norm_bias=False, tied=True,
            names={"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
        ),
        "opt": _plain(tied=True, positions=True, positions_more=2, names={"intermediate_size": "ffn_dim"}),
        "biogpt": _plain(tied=True, positions=True, positions_more=2),
        "xglm": _plain(
            tied=True,
            names={
                "hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "attention_heads",
                "intermediate_size": "ffn_dim",
            },
        ),
        "falcon": _plain(fused=("qkv",), bias_switch="bias", mlp_bias="bias", norms=1, tied=True, parallel=True,
            names={"intermediate_size": "ffn_hidden_size"},
        ),
        "persimmon": _plain(fused=("qkv",), head_norm="head", head_norm_switch="qk_layernorm"),
        "starcoder2": _plain(bias_switch="use_bias", bias_default=True, mlp_bias="use_bias", tied=True),
        "stablelm": Family(
            bias="qkv", bias_switch="use_qkv_bias", mlp_bias="", layer_norm=True, norm_bias=True,
            head_norm="width", head_norm_switch="qk_layernorm", extra="parallel_switch",
        ),
        "nemotron": Family(gated=False, layer_norm=True, norm_bias=True),
        "cohere": Family(norm_code="manual", tied=True, norms=1, layer_norm=True, parallel=True, mlp_bias="",
            head_norm="width", head_norm_switch="use_qk_norm",
        ),
        "cohere2": Family(norm_code="manual", tied=True, norms=1, layer_norm=True, parallel=True, mlp_bias=""),
        "glm": Family(fused=("gate_up",), bias="qkv", bias_default=True, mlp_bias=""),
        "glm4": Family(fused=("gate_up",), bias="qkv", bias_default=True, norms=4, mlp_bias=""),
        "glm4_moe": Family(
            bias="qkv", mlp_bias="", head_norm="head", head_norm_switch="use_qk_norm", shared_experts=1, dense_layers=1
        ),
        "glm4_moe_lite": Family(mlp_bias="", shared_experts=1, dense_layers=1),
        "solar_open": Family(bias="qkv", mlp_bias="", shared_experts=1),
        "dots1": Family(mlp_bias="", head_norm="head"),
        "olmo": Family(norms=0, final_norm=False, layer_norm=True, mlp_bias=""),
        "olmo2": Family(norm_code="wide", post_norm=True, head_norm="width", mlp_bias=""),
        "olmo3": Family(norm_code="wide", post_norm=True, head_norm="width", mlp_bias=""),
        "olmoe": Family(head_norm="width", mlp_bias=""),
        "flex_olmo": Family(norm_code="wide", post_norm=True, head_norm="width", mlp_bias=""),
        "minimax_m2": Family(bias="", mlp_bias="", head_norm="width"),
        "mellum": Family(head_norm="head", mlp_bias=""),
        "exaone4": Family(post_norm=True, bias="", mlp_bias="", head_norm="head"),
        "exaone_moe": Family(bias="", mlp_bias="", head_norm="head", dense_layers=1),
        "ernie4_5": Family(bias_switch="use_bias", mlp_bias="use_bias", tied=True),
        "ernie4_5_moe": Family(
            bias_switch="use_bias", mlp_bias="use_bias", tied=True, head_bias="use_bias", expert_values=1
        ),
        "hunyuan_v1_dense": Family(head_norm="head", mlp_bias=""),
        "hunyuan_v1_moe": Family(head_norm="head", mlp_bias="", shared_experts=1),
        "hy_v3": Family(head_norm="head", mlp_bias="", shared_experts=1, dense_layers=1),
        "llama4_text": Family(
            mlp_bias="", shared_experts=1, extra="llama4",
            sizes={
                "vocab_size": 202_048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16_384,
                "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
                "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
            },
        ),
        "afmoe": Family(
            norm_code="wide", norms=4, head_norm="head", mlp_bias="", expert_values=1, extra="gated_attention"
        ),
        "deepseek_v2": Family(shared_experts=2),
        "deepseek_v3": Family(shared_experts=1, dense_layers=3),
        "minicpm3": Family(mlp_bias=""),
        "youtu": Family(tied=True, mlp_bias="mlp_bias"),
        "lfm2": Family(bias="", mlp_bias="", head_norm="head", tied=True, extra="short_convolutions"),
    }
)  # fmt: skip
GENERIC = Family()
