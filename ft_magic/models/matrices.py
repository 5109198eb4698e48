"""A linear layer, and one kind of decoder layer as a list of them."""

from __future__ import annotations

from dataclasses import dataclass


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
    """One kind of decoder layer and how many of it the model has.

    Attributes:
        layers: how many.
        matrices: its linear layers.
        norm_values: values of its norms, and of other vectors that are neither weights nor biases.
        kv_heads: key and value heads, 0 where the layer reads another layer's keys and values.
        head_dim: width of one query head.
        value_dim: width of one value head.
        window: tokens a query sees at most, 0 without a limit.
        mixer: how tokens meet: ``attention``, ``delta`` (gated delta rule) or ``convolution``.
    """

    layers: int
    matrices: tuple[Matrix, ...]
    norm_values: int
    kv_heads: int = 0
    head_dim: int = 0
    value_dim: int = 0
    window: int = 0
    mixer: str = "attention"
