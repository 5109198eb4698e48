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
from ft_magic.models.layers import decoder_blocks
from ft_magic.models.matrices import Block, Matrix
from ft_magic.models.sizes import Sizes, is_strange, read_sizes

__all__ = ["Architecture", "Block", "Matrix", "architecture", "language_part"]


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
        order: which of ``blocks`` each layer is, from first to last; empty = one kind after the other.
        parallel: whether attention and feed-forward part read the same norm.
        head_normed: whether queries and keys have a norm of their own.
        norm_code: how its norm is written, see ``Family``.
        post_norm: whether norms follow attention and feed-forward part alone.
        activation: the feed-forward part's activation, by transformers' name.
        soft_cap: whether the logits go through a tanh (Gemma 2).
        embedding_values: values of embeddings beside the main one (positions, Gemma's per layer).
        doubts: what the count leaves out or guesses, one sentence each.
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
    order: tuple[int, ...] = ()
    parallel: bool = False
    head_normed: bool = False
    norm_code: str = ""
    post_norm: bool = False
    activation: str = "silu"
    soft_cap: bool = False
    embedding_values: int = 0
    doubts: tuple[str, ...] = ()

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
            "embedding": table + self.embedding_values,
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
    if config.get("is_encoder_decoder"):
        raise KeyError("a decoder without an encoder")
    kind = str(config["model_type"])
    family = FAMILIES.get(kind, GENERIC)
    sizes = read_sizes(config, family)
    blocks, order = decoder_blocks(sizes, family)
    table, vectors = _embedding_values(sizes, family)
    bias = 1 + family.norm_bias
    head_bias = family.head_bias == "always" or bool(config.get(family.head_bias))
    return Architecture(
        kind, sizes.hidden, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.value_dim, _active(sizes),
        sizes.vocab,
        tied=bool(sizes.config.get("tie_word_embeddings", family.tied)),
        gated=sizes.gated,
        layer_norm=family.layer_norm,
        blocks=blocks,
        order=order,
        experts=sizes.experts,
        experts_per_token=sizes.experts_per_token,
        positions=table // sizes.hidden if family.positions else 0,
        parallel=family.parallel,
        head_normed=bool(family.head_norm)
        and (not family.head_norm_switch or bool(sizes.config.get(family.head_norm_switch))),
        norm_code=family.norm_code,
        post_norm=family.post_norm,
        activation=_activation(sizes),
        soft_cap=bool(sizes.config.get("final_logit_softcapping")),
        embedding_values=table,
        head_bias=sizes.vocab if head_bias else 0,
        norm_values=sizes.hidden * bias * family.final_norm + vectors,
        known=kind in FAMILIES,
        doubts=_doubts(config, kind),
    )  # fmt: skip


def _activation(sizes: Sizes) -> str:
    names = ("hidden_activation", "hidden_act", "activation_function")
    given = next((str(sizes.config[name]) for name in names if sizes.config.get(name)), None)
    return given or ("silu" if sizes.gated else "gelu")


def _active(sizes: Sizes) -> int:
    """Return the inner width one token goes through."""
    if sizes.experts:
        return sizes.experts_per_token * sizes.expert_inner + sizes.shared_inner
    inner = sizes.config["intermediate_size"]
    return max(inner) if isinstance(inner, list) else int(inner)


def _doubts(config: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    """Return what the count leaves out or guesses, one sentence each."""
    said = []
    if kind not in FAMILIES:
        said.append(f"model_type '{kind}' is not in the table: counted like a Llama of its sizes.")
        if is_strange(config):
            said.append(
                "It has layers that are no attention (a recurrence, a convolution): the count may be far off."
            )
    towers = [name for name in ("vision_config", "audio_config") if isinstance(config.get(name), dict)]
    if towers:
        said.append(f"The language part alone is counted, without {' and '.join(towers)}.")
    return tuple(said)


def _embedding_values(sizes: Sizes, family: Family) -> tuple[int, int]:
    """Return the values of embeddings beside the main one, and of vectors outside the layers."""
    config, hidden = sizes.config, sizes.hidden
    table = vectors = 0
    if family.positions:
        table += (int(config["max_position_embeddings"]) + family.positions_more) * hidden
    if family.extra == "embedding_norm":
        vectors += 2 * hidden
    narrow = int(config.get("hidden_size_per_layer_input") or 0)
    if narrow and family.extra in ("gemma3n", "gemma4"):
        table += (
            int(config["vocab_size_per_layer_input"]) * sizes.layers * narrow + hidden * sizes.layers * narrow
        )
        vectors += narrow
    if family.extra == "gemma3n":  # one projection into and out of each further stream
        table += 2 * (int(config["altup_num_inputs"]) - 1) * hidden * hidden
    return table, vectors
