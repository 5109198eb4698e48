"""The losses of single sequences and of scored pairs, as each stack computes them. Imported in the worker alone.

Each takes a ``Scene`` and returns ``(loss, output)``; the caller decides how long the output lives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from ft_magic.memory.logits import chunk_tokens
from ft_magic.memory.setting import Setting
from ft_magic.memory.tracing import fused_losses

Result = tuple[torch.Tensor, Any]
# As transformers 4 wrote them: the rest of its code was as old.
# Unsloth's chunk holds the logits in 16 bits, twice in fp32, and gradients in fp32 and 16 bits.
_BUDGETED_LOGIT = 16
OLDER_LOSSES = ("shifted", "early", "uncast", "inplace", "inplace_early")


@dataclass(frozen=True)
class Scene:
    """Who takes part in a forward pass.

    Attributes:
        model: what trains, as a trainer holds it.
        ids: ``(sequences, tokens)``; of pairs, the chosen sequences first.
        mask: the same shape, ones.
        reference: a frozen copy of the model, or None.
        setting: what is trained, and how.
    """

    model: Any
    ids: torch.Tensor
    mask: torch.Tensor
    reference: Any
    setting: Setting

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What a model reads."""
        return {"input_ids": self.ids, "attention_mask": self.mask}

    @property
    def causal(self) -> Any:
        """The model without PEFT's shell."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model


def language(scene: Scene) -> Result:
    """Causal language model loss."""
    keys: list[torch.Tensor] = []  # what an older model returned beside its logits
    if scene.setting.loss.kind in OLDER_LOSSES:
        output, loss = _older(scene, keys)
    else:
        # Fused and chunked losses are the model's own by now: ``prepare`` put them into its forward.
        output = scene.model(**scene.inputs, labels=scene.ids)
        loss = output.loss
    logits = getattr(output, "logits", None)
    if scene.setting.autocast_width and logits is not None and not scene.setting.loss.outputs_alive:
        output.logits = logits.float()  # accelerate hands outputs on in fp32 (convert_outputs_to_fp32)
    return loss, (output, keys)


def prepare(scene: Scene) -> None:
    """Put a loss that needs no logits into the model's forward, as TRL and Liger do."""
    kind = scene.setting.loss.kind
    if kind == "chunked":
        from trl.trainer.sft_trainer import _patch_chunked_ce_lm_head

        _patch_chunked_ce_lm_head(scene.causal, scene.setting.loss.chunk_tokens)
    elif kind == "fused":
        fused_losses.fuse_head(scene.causal)
    elif kind == "budgeted":
        vocab, budget = scene.causal.config.vocab_size, scene.setting.loss.budget_bytes
        rows = math.ceil(chunk_tokens(scene.setting.tokens, vocab, budget))
        fused_losses.fuse_head(scene.causal, rows, _BUDGETED_LOGIT)


def _older(scene: Scene, keys: list[torch.Tensor]) -> tuple[Any, torch.Tensor]:
    """Return the output and the loss of transformers before 4.49: of a shifted, contiguous copy of the logits.

    Up to 4.45 the output held the fp32 logits; from 4.46 it held those of the model's own type beside them; GPT-2's
    relatives cast nothing. The Triton kernels of fms-acceleration take the place of the last step.
    """
    kind, causal = scene.setting.loss.kind, scene.causal
    # The model's forward computed the loss itself, with its last states alive.
    hidden: list[torch.Tensor] = []
    hooks = [
        causal.get_output_embeddings().register_forward_hook(lambda _, given, __: hidden.append(given[0]))
    ]
    if causal.config.model_type == "gpt_bigcode":
        hooks += _kept_keys(causal, keys)
    output = scene.model(**scene.inputs)
    for hook in hooks:
        hook.remove()
    uncast = kind == "uncast" or causal.config.model_type.startswith("gpt")
    values = output.logits if uncast else output.logits.float()
    if kind in ("early", "inplace_early"):
        output.logits = values
    shifted = values[..., :-1, :].contiguous()
    if kind in ("inplace", "inplace_early"):
        return output, fused_losses.InPlace.apply(shifted)
    labels = scene.ids[..., 1:].contiguous()
    return output, functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), labels.view(-1))


def _kept_keys(causal: Any, kept: list[torch.Tensor]) -> list[Any]:
    """Keep every layer's keys and values until the output is dropped.

    transformers 4's ``modeling_gpt_bigcode.py`` leaves ``use_cache`` on while layers are checkpointed; its multi-query
    keys are a view of ``c_attn``'s whole result, so that all of it (queries too) outlives the layer.
    """
    return [
        module.register_forward_hook(lambda _, __, result: kept.append(result))
        for name, module in causal.named_modules()
        if name.endswith("attn.c_attn")
    ]


def scored_pairs(scene: Scene) -> Result:
    """Bradley-Terry loss of pairs (TRL's ``RewardTrainer.compute_loss``)."""
    output = scene.model(**scene.inputs)
    chosen, rejected = output.logits.squeeze(-1).chunk(2)
    return -functional.logsigmoid(chosen - rejected).mean(), output


PLAIN: Mapping[str, Callable[[Scene], Result]] = MappingProxyType(
    {"sft": language, "cpt": language, "reward": scored_pairs}
)
