"""Moments of a run besides the policy's own forward and backward pass: loading, a reference's pass, generation."""

from __future__ import annotations

from dataclasses import dataclass

from ft_magic.memory.setting import Setting
from ft_magic.models.architecture import Architecture

_FP32, _HALF = 4, 2


@dataclass(frozen=True)
class Instant:
    """Bytes alive at one moment, besides what stays."""

    name: str
    activations: float = 0.0
    logits: float = 0.0
    gradients: float = 0.0
    workspace: float = 0.0
    cache: float = 0.0

    @property
    def total(self) -> float:
        """Sum, in bytes."""
        return self.activations + self.logits + self.gradients + self.workspace + self.cache


def load(model: Architecture, setting: Setting) -> Instant:
    """Return what loading needs beside the weights as they will stay.

    Each matrix is on the card in 16 bit while it is quantized (transformers' ``core_model_loading.py``), and
    each weight in 16 bit beside its fp32 copy in PEFT's ``prepare_model_for_kbit_training``.
    """
    quantization = setting.quantization
    if quantization is None:
        return Instant("load")
    packed = max(
        matrix.inputs * matrix.outputs
        for block in model.blocks
        for matrix in block.matrices
        if matrix.part != "router"
    )
    upcast = model.vocab * model.hidden if quantization.rest_width > _HALF else 0
    return Instant("load", workspace=float(_HALF * max(packed, upcast)))


def scoring(setting: Setting, model: Architecture, stored: float, width: int, waiting: float) -> Instant:
    """Return the reference's pass over pairs after the policy's, whose graph and logits live (TRL's ``_compute_loss``).

    Its largest moment is a layer, or its own logits, which exist after the layers.
    """
    kept = max(width, _FP32 if setting.autocast_width else width)
    a_logit = setting.logit_tokens * model.vocab
    if setting.loss.kind in ("chunked", "fused", "budgeted", "none"):
        a_logit = 0
    passing = float(setting.tokens * passing_values(model) * setting.compute_width)
    hidden = float(setting.tokens * model.hidden * setting.compute_width)
    layers = Instant("forward", stored + passing, float(a_logit * kept), waiting)
    logits = Instant("forward", stored + hidden, float(a_logit * (kept + width + kept)), waiting)
    return max(layers, logits, key=lambda instant: instant.total)


def passing_values(model: Architecture) -> int:
    """Return the values a token has alive in a layer that keeps nothing: residual, norm, and the feed-forward part."""
    return 2 * model.hidden + (3 if model.gated else 2) * model.inner


def generation(model: Architecture, setting: Setting) -> Instant:
    """Keys and values of every token of every sequence generated at once, the prompts' pass, and one step of logits.

    A layer with a window keeps no more than that; a layer that reads another's keys keeps none. One layer's cache is
    copied while it grows (transformers' ``DynamicCache``).
    """
    sequences = setting.generation_batch
    a_layer = [
        block.kv_heads
        * (block.head_dim + block.value_dim)
        * min(setting.length, block.window or setting.length)
        if block.mixer == "attention"
        else 0
        for block in model.blocks
    ]
    kept = sum(block.layers * size for block, size in zip(model.blocks, a_layer, strict=True)) + max(a_layer)
    cache = float(sequences * kept * setting.compute_width)
    prompt = max(setting.length - (setting.answer_length or 0), 1)
    passing = sequences * prompt * passing_values(model) * setting.compute_width
    logits = sequences * model.vocab * 3.0 * _FP32
    return Instant("generation", float(passing), logits, 0.0, 0.0, cache)
