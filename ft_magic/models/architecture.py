"""The matrices of a decoder, counted from its ``config.json`` alone.

One layer is a list of matrices; everything else (parameter counts by part, what LoRA can target, what a quantizer
leaves alone) is a sum over that list. Sources: the modeling files of transformers for each ``model_type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_magic.errors import ModelError
from ft_magic.models.families import FAMILIES, GENERIC, Family


@dataclass(frozen=True)
class Matrix:
    """A linear layer.

    Attributes:
        name: what LoRA calls it, such as ``q_proj``.
        inputs: width it reads.
        outputs: width it writes.
        bias: whether it adds a vector of ``outputs``.
        copies: how many of it a layer holds (experts).
        part: ``attention``, ``mlp``, ``experts`` or ``router``.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    part: str = "attention"

    @property
    def weights(self) -> int:
        """Weights of all copies, without biases."""
        return self.copies * self.inputs * self.outputs


@dataclass(frozen=True)
class Block:
    """One kind of decoder layer and how many of it the model has."""

    layers: int
    matrices: tuple[Matrix, ...]
    norm_values: int


@dataclass(frozen=True)
class Architecture:
    """A decoder's sizes: see the module.

    Attributes:
        model_type: transformers' name.
        hidden: width of the residual stream.
        heads: query heads a layer.
        kv_heads: key and value heads a layer.
        head_dim: width of one query head.
        value_dim: width of one value head.
        inner: inner width of the (dense, or active) feed-forward part, for one token.
        vocab: rows of the embedding.
        tied: whether the output layer is the embedding.
        gated: whether the feed-forward part has a gate.
        layer_norm: whether norms are LayerNorm, else RMSNorm.
        blocks: the layers.
        experts: experts a layer, 0 without.
        experts_per_token: experts a token visits.
        positions: learned position vectors, 0 without.
        head_bias: values of the output layer's bias.
        norm_values: values of the final norm.
        known: whether ``model_type`` is in the table; others are counted as Llama-like.
    """

    model_type: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    inner: int
    vocab: int
    tied: bool
    gated: bool
    layer_norm: bool
    blocks: tuple[Block, ...]
    experts: int = 0
    experts_per_token: int = 0
    positions: int = 0
    head_bias: int = 0
    norm_values: int = 0
    known: bool = True

    @property
    def layers(self) -> int:
        """Decoder layers of all kinds."""
        return sum(block.layers for block in self.blocks)

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by part; their sum is the model's parameter count."""
        sums = dict.fromkeys(("attention", "mlp", "experts", "router", "biases", "norms"), 0)
        for block in self.blocks:
            for matrix in block.matrices:
                sums[matrix.part] += block.layers * matrix.weights
                sums["biases"] += block.layers * matrix.copies * matrix.outputs * matrix.bias
            sums["norms"] += block.layers * block.norm_values
        sums["norms"] += self.norm_values
        sums["biases"] += self.head_bias
        table = self.vocab * self.hidden
        return {
            "embedding": table + self.positions * self.hidden,
            "head": 0 if self.tied else table,
        } | sums

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parts.values())


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config, of a model that also sees or hears with its language part on top."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the matrices a ``config.json`` describes.

    Raises:
        ModelError: a size every decoder has is missing.
    """
    config = language_part(config)
    try:
        return _architecture(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"This config is not one of a decoder language model: {error} is missing or unreadable "
            f"(model_type is '{config.get('model_type')}').",
            "Give the config.json of a causal language model.",
        ) from error


def _architecture(config: Mapping[str, Any]) -> Architecture:
    kind = str(config["model_type"])
    family = FAMILIES.get(kind, GENERIC)
    heads = int(_first(config, "num_attention_heads", "n_head"))
    hidden = int(_first(config, "hidden_size", "n_embd"))
    layers = int(_first(config, "num_hidden_layers", "n_layer"))
    width = int(config.get("head_dim") or hidden // heads)
    vocab = int(config["vocab_size"])
    values, kv_heads = width, _kv_heads(config, heads)
    if config.get("kv_lora_rank"):  # multi-head latent attention
        width = int(config["qk_nope_head_dim"]) + int(config["qk_rope_head_dim"])
        values, kv_heads = int(config["v_head_dim"]), heads
    attention = _attention(config, family, hidden, heads, kv_heads, width)
    norms = family.norms * hidden * (2 if family.norm_bias else 1) + _head_norms(
        config, family, heads, kv_heads, width
    )
    if config.get("new_decoder_architecture"):  # Falcon 40B: two norms, one before each branch
        norms += 2 * hidden
    blocks, active, experts, chosen = _blocks(config, family, hidden, layers, attention, norms)
    gated = bool(config.get("gated_mlp", family.gated))
    positions = int(_first(config, "max_position_embeddings", "n_positions")) if family.positions else 0
    return Architecture(
        kind, hidden, heads, kv_heads, width, values, active, vocab,
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        gated=gated,
        layer_norm=family.norm_bias,
        blocks=blocks,
        experts=experts,
        experts_per_token=chosen,
        positions=positions,
        head_bias=vocab if family.head_bias else 0,
        norm_values=(hidden * (2 if family.norm_bias else 1)) if family.norms else 0,
        known=kind in FAMILIES,
    )  # fmt: skip


def _first(config: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise KeyError(names[0])


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("model_type") == "falcon" and not config.get("new_decoder_architecture"):
        return 1 if config.get("multi_query", True) else heads
    if config.get("model_type") == "gpt_bigcode":
        return 1 if config.get("multi_query", True) else heads
    if config.get("model_type") in ("gpt2", "gpt_neox"):
        return heads
    return int(config.get("num_key_value_heads") or config.get("num_kv_heads") or heads)


def _head_norms(config: Mapping[str, Any], family: Family, heads: int, kv_heads: int, width: int) -> int:
    if config.get("kv_lora_rank"):
        return int(config.get("q_lora_rank") or 0) + int(config["kv_lora_rank"])
    return {"": 0, "head": 2 * width, "width": (heads + kv_heads) * width}[family.head_norm]


def _attention(
    config: Mapping[str, Any], family: Family, hidden: int, heads: int, kv_heads: int, width: int
) -> tuple[Matrix, ...]:
    every = family.bias == "all" or (family.bias == "config" and bool(config.get("attention_bias")))
    if config.get("model_type") == "falcon":
        every = bool(config.get("bias"))
    qkv = every or family.bias == "qkv"
    if config.get("kv_lora_rank"):
        return _latent_attention(config, hidden, heads, width, bias=every)
    queries, keys = heads * width, kv_heads * width
    return (
        Matrix("q_proj", hidden, queries, qkv),
        Matrix("k_proj", hidden, keys, qkv),
        Matrix("v_proj", hidden, keys, qkv),
        Matrix("o_proj", queries, hidden, every),
    )


def _latent_attention(
    config: Mapping[str, Any], hidden: int, heads: int, width: int, *, bias: bool
) -> tuple[Matrix, ...]:
    """Return DeepSeek's projections: queries and the key-value pair go through a narrow latent each."""
    rank, latent = config.get("q_lora_rank"), int(config["kv_lora_rank"])
    values, plain = int(config["v_head_dim"]), int(config["qk_nope_head_dim"])
    queries = (
        (Matrix("q_a_proj", hidden, int(rank), bias), Matrix("q_b_proj", int(rank), heads * width))
        if rank
        else (Matrix("q_proj", hidden, heads * width),)
    )
    return (
        *queries,
        Matrix("kv_a_proj_with_mqa", hidden, latent + int(config["qk_rope_head_dim"]), bias),
        Matrix("kv_b_proj", latent, heads * (plain + values)),
        Matrix("o_proj", heads * values, hidden, bias),
    )


def _mlp(
    hidden: int, inner: int, *, gated: bool, bias: bool, copies: int = 1, part: str = "mlp"
) -> tuple[Matrix, ...]:
    gate = (Matrix("gate_proj", hidden, inner, bias, copies, part),) if gated else ()
    return (
        *gate,
        Matrix("up_proj", hidden, inner, bias, copies, part),
        Matrix("down_proj", inner, hidden, bias, copies, part),
    )


def _blocks(
    config: Mapping[str, Any],
    family: Family,
    hidden: int,
    layers: int,
    attention: tuple[Matrix, ...],
    norms: int,
) -> tuple[tuple[Block, ...], int, int, int]:
    """Return the layers, the active inner width, and the experts a layer has and a token visits."""
    gated = bool(config.get("gated_mlp", family.gated))
    bias = bool(config.get("mlp_bias", (not gated) and config.get("model_type") != "falcon"))
    named = next((name for name in ("n_inner", "ffn_hidden_size") if name in config), "intermediate_size")
    inner = int(config.get(named) or 4 * hidden)
    dense = Block(layers, (*attention, *_mlp(hidden, inner, gated=gated, bias=bias)), norms)
    experts = int(
        config.get("num_local_experts") or config.get("n_routed_experts") or config.get("num_experts") or 0
    )
    if not experts:
        return (dense,), inner, 0, 0
    chosen = int(config.get("num_experts_per_tok") or config.get("num_experts_per_token") or 2)
    narrow = int(config.get("moe_intermediate_size") or inner)
    shared = (
        int(config.get("shared_expert_intermediate_size") or 0)
        if "shared_expert_intermediate_size" in config
        else (narrow * int(config.get("n_shared_experts") or 0))
    )
    routed = _mlp(hidden, narrow, gated=True, bias=False, copies=experts, part="experts")
    always = _mlp(hidden, shared, gated=True, bias=False) if shared else ()
    switch = (
        (Matrix("shared_expert_gate", hidden, 1, part="router"),)
        if config.get("model_type") == "qwen2_moe"
        else ()
    )
    router = (Matrix("router", hidden, experts, part="router"), *switch)
    first = min(int(config.get("first_k_dense_replace") or 0), layers)
    sparse = Block(layers - first, (*attention, *router, *always, *routed), norms)
    blocks = tuple(block for block in (Block(first, dense.matrices, norms), sparse) if block.layers)
    return blocks, chosen * narrow + shared, experts, chosen
