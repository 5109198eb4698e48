"""A decoder's sizes under transformers' usual names, read from a config of any family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_magic.models.families import Family

# Keys of the number of experts, and of those a token visits, over all families.
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts", "moe_topk")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
# Families whose every query head has a key head of its own, whatever the config says.
_ONE_FOR_EACH = (
    "gpt2", "gpt-sw3", "gpt_neox", "gpt_neo", "gptj", "codegen", "bloom", "opt", "mpt", "xglm", "persimmon", "biogpt",
)  # fmt: skip
# Layers transformers has and this table of matrices has not.
_STRANGE_LAYERS = ("mamba", "linear_attention", "conv", "recurrent", "sparse_attention", "compress")
_STRANGE_KEYS = ("ssm_cfg", "state_size", "mamba_d_state", "mamba_n_heads", "block_types", "hybrid_layer_ids")


@dataclass(frozen=True)
class Sizes:
    """A decoder's sizes.

    Attributes:
        config: what the rest is read from, with the family's defaults.
        hidden: width of the residual stream.
        layers: decoder layers.
        heads: query heads a layer.
        kv_heads: key and value heads a layer.
        head_dim: width of one query head.
        value_dim: width of one value head.
        vocab: rows of the embedding.
        experts: experts of a layer that has some, 0 without.
        experts_per_token: experts a token visits.
        expert_inner: inner width of one expert.
        shared_inner: inner width of what every token visits beside its experts.
        gated: whether the feed-forward part has a gate.
    """

    config: Mapping[str, Any]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    vocab: int
    experts: int
    experts_per_token: int
    expert_inner: int
    shared_inner: int
    gated: bool

    @property
    def latent(self) -> bool:
        """Whether keys and values go through a narrow latent (DeepSeek)."""
        return bool(self.config.get("kv_lora_rank"))


def read_sizes(config: Mapping[str, Any], family: Family) -> Sizes:
    """Return the sizes a config names.

    Raises:
        KeyError: one is missing.
    """
    own = {usual: config[name] for usual, name in family.names.items() if name in config}
    merged = {**family.sizes, **{key: value for key, value in {**config, **own}.items() if value is not None}}
    heads, hidden = _whole(merged, "num_attention_heads"), _whole(merged, "hidden_size")
    width = int(merged.get("head_dim") or hidden // heads)
    values, kv_heads = width, _kv_heads(merged, heads)
    if merged.get("kv_lora_rank"):
        width = int(merged["qk_nope_head_dim"]) + int(merged["qk_rope_head_dim"])
        values, kv_heads = int(merged.get("v_head_dim") or width), heads
    merged["intermediate_size"] = _inner(merged, family, hidden)
    experts = _first(merged, _EXPERTS, 0)
    if merged.get("model_type") == "gemma4_text" and not merged.get("enable_moe_block"):
        experts = 0
    narrow = int(merged.get("moe_intermediate_size") or _widest(merged["intermediate_size"]))
    return Sizes(
        merged, hidden, _whole(merged, "num_hidden_layers"), heads, kv_heads, width, values,
        _whole(merged, "vocab_size"),
        experts=experts,
        experts_per_token=_first(merged, _CHOSEN, 2) if experts else 0,
        expert_inner=narrow,
        shared_inner=_shared(merged, family, narrow) if experts else 0,
        gated=bool(merged.get("gated_mlp", family.gated)),
    )  # fmt: skip


def is_strange(config: Mapping[str, Any]) -> bool:
    """Return whether a config speaks of layers that are neither attention nor feed-forward."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ()
    listed = any(part in str(kind) for kind in kinds for part in _STRANGE_LAYERS)
    return listed or any(config.get(key) for key in _STRANGE_KEYS)


def _whole(config: Mapping[str, Any], name: str) -> int:
    if config.get(name) is None:
        raise KeyError(name)
    return int(config[name])


def _first(config: Mapping[str, Any], names: tuple[str, ...], default: int) -> int:
    return next((int(config[name]) for name in names if config.get(name)), default)


def _widest(inner: Any) -> int:
    return max(inner) if isinstance(inner, list) else int(inner)


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    kind = config.get("model_type")
    if kind == "falcon" and not config.get("new_decoder_architecture"):
        return 1 if config.get("multi_query", True) else heads
    if kind == "gpt_bigcode":
        return 1 if config.get("multi_query", True) else heads
    if kind in _ONE_FOR_EACH:
        return heads
    return int(config.get("num_key_value_heads") or config.get("num_kv_heads") or heads)


def _inner(config: Mapping[str, Any], family: Family, hidden: int) -> Any:
    inner = config.get("intermediate_size") or 4 * hidden
    if family.extra == "short_convolutions" and config.get("block_auto_adjust_ff_dim", True):
        # Lfm2MLP: two thirds, times a factor, rounded up
        factor, step = (
            config.get("block_ffn_dim_multiplier", 1.0),
            int(config.get("block_multiple_of") or 256),
        )
        inner = int(2 * int(inner) / 3)
        return inner if factor is None else step * -(-int(factor * inner) // step)
    return inner if isinstance(inner, list) else int(inner)


def _shared(config: Mapping[str, Any], family: Family, narrow: int) -> int:
    for key in ("shared_expert_intermediate_size", "shared_intermediate_size"):
        if key in config:
            return int(config[key] or 0)
    if family.extra == "gemma4":
        return 0
    count = next(
        (int(config[name]) for name in _SHARED if config.get(name) is not None), family.shared_experts
    )
    return narrow * count
