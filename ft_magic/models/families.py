"""What each ``model_type`` leaves out of its config: biases, norms, gates, ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Family:
    """What a ``model_type`` leaves out of its config (source: transformers' configuration and modeling files).

    Attributes:
        bias: which projections have a bias: ``""``, ``"qkv"``, ``"all"``, or ``"config"`` (its ``attention_bias``).
        gated: whether the feed-forward part has a gate.
        norms: norm vectors of the hidden size a layer.
        norm_bias: whether norms have a bias (LayerNorm).
        head_norm: ``""``, ``"head"`` (a vector of ``head_dim`` each for queries and keys) or ``"width"`` (OLMo 2).
        tied: whether the embedding is shared when the config does not say.
        head_bias: whether the output layer has a bias.
        positions: whether positions are learned vectors.
    """

    bias: str = ""
    gated: bool = True
    norms: int = 2
    norm_bias: bool = False
    head_norm: str = ""
    tied: bool = False
    head_bias: bool = False
    positions: bool = False


_GPT2 = Family("all", gated=False, norm_bias=True, tied=True, positions=True)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("config"),
        "mistral": Family(),
        "mixtral": Family(),
        "granite": Family("config"),
        "smollm3": Family("config", tied=True),
        "qwen": Family("qkv"),
        "qwen2": Family("qkv"),
        "qwen2_moe": Family("qkv"),
        "qwen3": Family("config", head_norm="head"),
        "qwen3_moe": Family("config", head_norm="head"),
        "gemma": Family("config", tied=True),
        "gemma2": Family("config", norms=4, tied=True),
        "gemma3_text": Family("config", norms=4, head_norm="head", tied=True),
        "gemma3": Family("config", norms=4, head_norm="head", tied=True),
        "phi": Family("all", gated=False, norms=1, norm_bias=True, head_bias=True),
        "phi3": Family(),
        "gpt2": _GPT2,
        "gpt_bigcode": _GPT2,
        "gpt_neox": Family("all", gated=False, norm_bias=True),
        "falcon": Family(gated=False, norms=1, norm_bias=True, tied=True),
        "olmo": Family("config", norms=0),
        "olmo2": Family("config", head_norm="width"),
        "olmoe": Family("config", head_norm="width"),
        "deepseek_v2": Family("config"),
        "deepseek_v3": Family("config"),
    }
)
GENERIC = Family("config")
