"""Losses of preferences by TRL's own code, on a trainer that has what the loss reads and nothing else. Worker only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.utils import selective_log_softmax

from ft_magic.memory.tracing.kernel_losses import log_probs, with_kernels
from ft_magic.memory.tracing.losses import Result, Scene


def _trainer(kind: type, scene: Scene, **more: Any) -> Any:
    """Return a trainer that was never initialised: its loss needs no data, arguments or device."""
    made: Any = object.__new__(kind)
    accelerator = SimpleNamespace(
        device=scene.ids.device,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        unwrap_model=lambda model, **_: model,
    )
    arguments = SimpleNamespace(
        gradient_checkpointing=scene.setting.checkpointing != "none",
        gradient_checkpointing_kwargs={"use_reentrant": scene.setting.reentrant},
    )
    made.__dict__.update(
        model=scene.model,
        ref_model=scene.reference,
        accelerator=accelerator,
        args=arguments,
        beta=0.1,  # numbers of the loss change no size
        label_smoothing=0.0,
        aux_loss_enabled=False,
        use_liger_kernel=False,
        is_fsdp_enabled=False,
        is_encoder_decoder=False,
        is_vision_model=False,
        padding_value=0,
        pad_token_id=0,
        precompute_ref_logps=scene.setting.reference == "precomputed",
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    made.__dict__.update(more)
    return made


def _direct(scene: Scene) -> Result:
    """DPO and IPO."""
    trainer = _trainer(
        DPOTrainer, scene,
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False,
    )  # fmt: skip
    inputs = {**scene.inputs, "completion_mask": scene.mask}
    if trainer.precompute_ref_logps:
        inputs |= dict.fromkeys(
            ("ref_chosen_logps", "ref_rejected_logps"), _sums(scene, scene.ids.shape[0] // 2)
        )
    return _loss(trainer, scene, inputs)


def _judged(scene: Scene) -> Result:
    """KTO: single answers, and as many mismatched ones for its estimate of the KL."""
    trainer = _trainer(
        KTOTrainer, scene, calculate_KL=True, loss_type="kto", desirable_weight=1.0, undesirable_weight=1.0,
    )  # fmt: skip
    count = scene.ids.shape[0]
    labels = [number % 2 == 0 for number in range(count)]
    inputs = {
        **scene.inputs,
        "completion_mask": scene.mask,
        "KL_input_ids": scene.ids,
        "KL_attention_mask": scene.mask,
        "KL_completion_mask": scene.mask,
        "label": torch.tensor(labels, device=scene.ids.device),
    }
    if trainer.precompute_ref_logps:
        inputs |= dict.fromkeys(("ref_logps", "ref_KL_logps"), _sums(scene, count))
    return _loss(trainer, scene, inputs)


def _loss(trainer: Any, scene: Scene, inputs: dict[str, torch.Tensor]) -> Result:
    """Return what the trainer's own loss code makes of a batch, on a GPU with its kernel."""
    kernel = scene.setting.loss.kind == "log_probs_kernel"
    kind = type(trainer)
    if hasattr(kind, "_compute_kl_logps"):
        trainer._compute_kl_logps = partial(with_kernels(kind._compute_kl_logps, kernel=kernel), trainer)  # noqa: SLF001
    return with_kernels(kind._compute_loss, kernel=kernel)(trainer, scene.model, inputs, False), None  # noqa: SLF001


def _labelled(scene: Scene, kind: type, **more: Any) -> Result:
    """ORPO, CPO and SimPO: both sides in one batch, no reference."""
    trainer = _trainer(kind, scene, **more)
    half = scene.ids.shape[0] // 2
    batch = {
        f"{side}_{name}": rows[part]
        for side, part in (("chosen", slice(half)), ("rejected", slice(half, None)))
        for name, rows in (("input_ids", scene.ids), ("attention_mask", scene.mask), ("labels", scene.ids))
    }
    return trainer.get_batch_loss_metrics(scene.model, batch, "train")[0], None


def _sums(scene: Scene, count: int) -> torch.Tensor:
    return torch.zeros(count, device=scene.ids.device)


def reference_log_probs(scene: Scene) -> torch.Tensor:
    """Return the reference's sum of log-probabilities of each sequence, as TRL makes them before training."""
    model = scene.model if scene.reference is None else scene.reference
    off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with torch.no_grad(), off:
        logits = model(**scene.inputs, use_cache=False).logits[..., :-1, :]
        if scene.setting.loss.kind == "log_probs_kernel":
            return log_probs(logits).sum(1)
        return selective_log_softmax(logits, scene.ids[..., 1:]).sum(1)


PREFERENCES: Mapping[str, Callable[[Scene], Result]] = MappingProxyType(
    {
        "dpo": _direct,
        "ipo": _direct,
        "online_dpo": _direct,
        "spin": _direct,
        "kto": _judged,
        "orpo": lambda scene: _labelled(scene, ORPOTrainer),
        "cpo": lambda scene: _labelled(
            scene, CPOTrainer, cpo_alpha=1.0, loss_type="sigmoid", simpo_gamma=0.0, alpha=0.0
        ),
        "simpo": lambda scene: _labelled(
            scene, CPOTrainer, cpo_alpha=0.0, loss_type="simpo", simpo_gamma=1.0, alpha=0.0
        ),
    }
)
