"""What an update changes in a model: made, loaded and saved. Imported in the worker alone.

``prepare`` says what trains, ``trained_by`` gives the trainer what an update needs besides, ``save`` writes the
result, ``load`` puts a saved adapter back on its base.
"""

from __future__ import annotations

import importlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from ft_magic.backends import bottleneck, decoder, pissa
from ft_magic.errors import SpecError
from ft_magic.planning.plans import Plan

HEAD = "score"  # transformers' name of the layer that scores a sequence
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
# PEFT saves virtual tokens as they come out; going on with training needs the network that writes them.
_ENCODER = "virtual_token_encoder.safetensors"
_NOT_RESULTS = ("trainer_state.json", _ENCODER)
_ROWS = 2  # dimensions of (rows, tokens)


def prepare(model: Any, plan: Plan) -> tuple[Any, Any]:
    """Return the model and the PEFT configuration of the adapter to add, or None where the model's own weights train.

    Raises:
        ModelError: the model has no layers this update could attach to.
        SpecError: more layers are asked for than there are, or a prefix with gradient checkpointing.
    """
    if plan.update.peft:
        config = adapter_config(model, plan)
        if config.peft_type == peft.PeftType.PREFIX_TUNING and plan.settings.gradient_checkpointing:
            raise SpecError(
                f"update: {plan.update.name} cannot recompute activations: its prefix is in the cache.",
                "Write gradient_checkpointing: no, and a smaller micro_batch_size or max_length to fit.",
            )
        return model, config
    if "trainable_layers" in plan.update.options:
        _freeze(model, plan)
    return model, None


def adapter_config(model: Any, plan: Plan) -> Any:
    """Return the PEFT configuration of the plan's update for this model."""
    row, spec = plan.update, plan.spec
    values: dict[str, Any] = {name: getattr(spec, key) for name, key in row.arguments.items()}
    if "lora_alpha" in row.options:
        values["lora_alpha"] = plan.settings.lora_alpha
    if "target_modules" in row.options:
        values["target_modules"] = _listed(spec.target_modules) or "all-linear"
    if row.peft in _FOUND:
        values |= _FOUND[row.peft](model, plan)
    kind = _config_class(row.peft)
    kept = _listed(spec.modules_to_save) or []
    kept = [kept] if isinstance(kept, str) else kept
    if plan.method.score_head:
        kept = [*kept, HEAD]
    if kept and "modules_to_save" in kind.__dataclass_fields__:
        values["modules_to_save"] = kept
    task = "SEQ_CLS" if plan.method.score_head else "CAUSAL_LM"
    return kind(**values, **row.settings, task_type=task)


def _config_class(path: str) -> Any:
    module, _, name = path.rpartition(":")
    return getattr(importlib.import_module(module) if module else peft, name)


def _listed(value: str | tuple[str, ...] | None) -> str | list[str] | None:
    return list(value) if isinstance(value, tuple) else value


def _ia3_modules(model: Any, _: Plan) -> dict[str, Any]:
    inner = decoder.outputs(model, attention=False, feedforward=True)
    return {"target_modules": [*decoder.keys_and_values(model), *inner], "feedforward_modules": inner}


def _bottleneck_modules(model: Any, plan: Plan) -> dict[str, Any]:
    both = plan.spec.adapter_placement == "houlsby"
    return {"target_modules": decoder.outputs(model, attention=both, feedforward=True)}


# What is not in the spec but found in the model, by PEFT class.
_FOUND: Mapping[str, Callable[[Any, Plan], dict[str, Any]]] = {
    "IA3Config": _ia3_modules,
    "ft_magic.backends.bottleneck:BottleneckConfig": _bottleneck_modules,
}


def _freeze(model: Any, plan: Plan) -> None:
    """Let the top layers, the last norm and a score head train, nothing else."""
    layers = decoder.layers(model)
    count = plan.spec.trainable_layers or math.ceil(len(layers) / 4)
    if count > len(layers):
        raise SpecError(
            f"trainable_layers {count} is more than the {len(layers)} layers of this model.",
            f"Write trainable_layers: {len(layers)} or less; update: full trains the embeddings too.",
        )
    model.requires_grad_(requires_grad=False)
    parts = [*list(layers)[-count:], *decoder.norms(model)]
    if plan.method.score_head:
        parts.append(getattr(model, HEAD))
    for part in parts:
        part.requires_grad_(requires_grad=True)


def trained_by(base: Any, plan: Plan) -> Any:
    """Return a trainer class with what the plan's update needs: learning rates of its own, logits that line up."""

    class Updating(base):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if plan.update.virtual_tokens:
                start_from_words(self.model)
                line_up(self.model)
                self.num_virtual_tokens = 0  # SFTTrainer would cut a second time

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            if self.optimizer is None:
                kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                settings = settings | {"loraplus_weight_decay": self.args.weight_decay}
                self.optimizer: Any = optimizer(self.model, plan, kind, settings)
            return super().create_optimizer(*args, **kwargs)

        def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
            super()._save(output_dir, *args, **kwargs)
            if plan.update.virtual_tokens:
                save_file(
                    _encoder(self.model).state_dict(), Path(output_dir or self.args.output_dir) / _ENCODER
                )

        def _load_from_checkpoint(self, folder: str, *args: Any, **kwargs: Any) -> None:
            super()._load_from_checkpoint(folder, *args, **kwargs)
            if plan.update.virtual_tokens:
                _encoder(self.model).load_state_dict(load_file(Path(folder) / _ENCODER))

    Updating.__name__ = base.__name__
    return Updating


def _encoder(model: Any) -> Any:
    return model.prompt_encoder[model.active_adapter]


def optimizer(model: Any, plan: Plan, kind: Any, settings: Mapping[str, Any]) -> Any:
    """Return the optimizer of an update whose weights learn at more than one rate, or None.

    Args:
        model: with its adapter in place.
        plan: of the run.
        kind: optimizer class.
        settings: its arguments, with ``lr``.
    """
    if "loraplus_lr_ratio" not in plan.update.options:
        return None
    return create_loraplus_optimizer(
        model, kind, loraplus_lr_ratio=plan.spec.loraplus_lr_ratio, **dict(settings)
    )


def start_from_words(model: Any) -> None:
    """Let a new prefix start as the keys and values of words, instead of as random numbers that drown the text.

    Words beat random numbers (Li and Liang). The first is the token that texts begin with, on which
    attention rests. Loss of the 135M model on four texts before the first step: 4.7 so, 12 from random numbers,
    4.5 without a prefix.
    """
    config = model.active_peft_config
    if config.peft_type != peft.PeftType.PREFIX_TUNING:
        return
    text = model.config.get_text_config()
    words = torch.randint(text.vocab_size, (1, config.num_virtual_tokens), device=model.device)
    if text.bos_token_id is not None:
        words[0, 0] = text.bos_token_id
    inner = model.get_base_model()
    body = getattr(inner, inner.base_model_prefix)
    with torch.no_grad():
        cache = body(input_ids=words, attention_mask=torch.ones_like(words), use_cache=True).past_key_values
    initialize_kv_prefix_from_past_key_values(model, past_key_values=[layer[:2] for layer in cache])


def line_up(model: Any) -> None:
    """Make a model with virtual tokens treat the given ones as if they stood alone behind them.

    Positions count on from the virtual tokens over padding, which PEFT forgets; logits come for the given tokens
    alone. A score head reads the last token of each row: transformers takes the last place of a padded row instead
    where it is given embeddings, as it is behind virtual tokens.
    """
    config = model.active_peft_config
    if not config.is_prompt_learning:
        return
    model.base_model.register_forward_pre_hook(_with_positions, with_kwargs=True)
    if config.peft_type == peft.PeftType.PREFIX_TUNING:
        return  # a prefix is in the cache, not in the sequence
    model.register_forward_hook(_without_virtual_tokens, with_kwargs=True)
    head = getattr(model.base_model, HEAD, None)
    if head is not None:
        masks: list[Any] = [None]
        model.register_forward_pre_hook(lambda _, __, given: _remember(masks, given), with_kwargs=True)
        head.register_forward_hook(lambda _, __, scores: _last_token_last(scores, masks[0]))


def _with_positions(_: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Count positions over the tokens that the mask shows, the last one for each token given."""
    mask = given.get("attention_mask")
    tokens = next((given[key] for key in ("inputs_embeds", "input_ids") if given.get(key) is not None), None)
    if given.get("position_ids") is None and tokens is not None and mask is not None and mask.ndim == _ROWS:
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        given["position_ids"] = positions[:, -tokens.shape[1] :]
    return args, given


def _without_virtual_tokens(_: Any, args: Any, given: Mapping[str, Any], output: Any) -> Any:
    ids = given.get("input_ids", args[0] if args else None)
    logits = getattr(output, "logits", None)
    if ids is not None and logits is not None and logits.ndim > _ROWS and logits.shape[1] > ids.shape[1]:
        output.logits = logits[:, -ids.shape[1] :]
    return output


def _remember(masks: list[Any], given: Mapping[str, Any]) -> None:
    masks[0] = given.get("attention_mask")


def _last_token_last(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Copy each row's score at its last token to the last place, where it is read: (rows, tokens, 1)."""
    if mask is None or scores.shape[1] <= mask.shape[1]:
        return scores  # without virtual tokens the model finds the last token itself
    places = torch.arange(mask.shape[1], device=mask.device)
    last = scores.shape[1] - mask.shape[1] + (mask * places).argmax(dim=1)
    moved = scores.clone()
    moved[:, -1] = scores[torch.arange(len(scores), device=scores.device), last]
    return moved


def save(model: Any, plan: Plan, folder: Path, best: Path | None = None) -> None:
    """Write what was trained: an adapter for the untouched base, or the whole model.

    Args:
        model: the trainer's model.
        plan: of the run.
        folder: to write into.
        best: checkpoint to take the weights from instead of the model's own.
    """
    converted = isinstance(getattr(model, "active_peft_config", None), pissa.PissaConfig)
    if best is not None and not converted:
        for file in best.iterdir():
            if file.suffix in (".safetensors", ".json") and file.name not in _NOT_RESULTS:
                shutil.copy2(file, folder / file.name)
        return
    if best is not None:
        set_peft_model_state_dict(model, load_file(best / _ADAPTER_WEIGHTS))
    if converted:
        pissa.save_as_lora(model, folder)
    elif plan.update.family == "adapter":
        model.save_pretrained(str(folder), safe_serialization=True, selected_adapters=[model.active_adapter])
    else:
        model.save_pretrained(str(folder), safe_serialization=True)


def load(model: Any, folder: str | Path) -> Any:
    """Return a base model with a saved adapter of any update over it, its logits in line with its tokens."""
    folder = Path(folder)
    kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
    config = bottleneck.BottleneckConfig.read(folder) if kind == bottleneck.TYPE else None
    loaded = PeftModel.from_pretrained(model, folder, config=config)
    line_up(loaded)
    return loaded
