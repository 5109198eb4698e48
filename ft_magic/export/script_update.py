"""The lines of a script that say which weights train, in PEFT's own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic.errors import ExportError
from ft_magic.planning.plans import Plan

_SAVE = 'trainer.save_model("result")'
# PiSSA moves part of each weight into the adapter. TRL's reference is then a copy of the starting adapter, and the
# result is turned into an adapter for the weights as they were.
_PISSA = """model = get_peft_model(model, {config})
model.save_pretrained("start")
model.peft_config["default"].init_lora_weights = True
"""
_PISSA_SAVE = 'trainer.model.save_pretrained("result", path_initial_model_for_weight_conversion="start")'
_PLUS = """model = get_peft_model(model, {config})
optimizer = create_loraplus_optimizer(
    model, torch.optim.AdamW, lr={rate!r}, loraplus_lr_ratio={ratio!r}, loraplus_weight_decay=0.0
)
"""
# The prefix starts as the keys and values of words, the token that texts begin with first.
_PREFIX = """model = get_peft_model(model, {config})
words = torch.randint(model.config.vocab_size, (1, {tokens}))
if model.config.bos_token_id is not None:
    words[0, 0] = model.config.bos_token_id
with torch.no_grad(), model.disable_adapter():
    cache = model(words, attention_mask=torch.ones_like(words), use_cache=True).past_key_values
initialize_kv_prefix_from_past_key_values(model, past_key_values=[layer[:2] for layer in cache])
"""
_FREEZE = """model.requires_grad_(False)
layers = model.model.layers
top = layers[-({asked} or -(-len(layers) // 4)) :]
for part in [*top, model.model.norm{head}]:
    part.requires_grad_(True)
"""


@dataclass(frozen=True)
class UpdateLines:
    """Parts of a script: imports, lines after the model is loaded, an argument of the trainer, how to save."""

    imports: tuple[str, ...] = ()
    prepared: str = ""
    argument: str = ""
    save: str = _SAVE


def update_lines(plan: Plan, run_folder: Path) -> UpdateLines:
    """Return the lines of the plan's update.

    Raises:
        ExportError: the run has no adapter yet to say which modules were found.
    """
    row, spec = plan.update, plan.spec
    if "trainable_layers" in row.options:
        head = ", model.score" if plan.method.score_head else ""
        return UpdateLines(prepared=_FREEZE.format(asked=spec.trainable_layers, head=head))
    if not row.peft:
        return UpdateLines()
    # A configuration class of ft_magic's own that merges is PEFT's LoRA in another form.
    kind = "LoraConfig" if ":" in row.peft else row.peft
    config = (
        f"{kind}({', '.join(f'{name}={value!r}' for name, value in _arguments(plan, run_folder).items())})"
    )
    own = (f"from peft import {kind}, get_peft_model",)
    if "pissa" in str(row.settings.get("init_lora_weights")):
        return UpdateLines(own, _PISSA.format(config=config), save=_PISSA_SAVE)
    if kind == "PrefixTuningConfig":
        line = "from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values"
        return UpdateLines((*own, line), _PREFIX.format(config=config, tokens=spec.num_virtual_tokens))
    if "loraplus_lr_ratio" in row.options:
        plus = _PLUS.format(config=config, rate=plan.settings.learning_rate, ratio=spec.loraplus_lr_ratio)
        imports = (*own, "from peft.optimizers import create_loraplus_optimizer")
        return UpdateLines(imports, plus, "    optimizers=(optimizer, None),\n")
    return UpdateLines((f"from peft import {kind}",), argument=f"    peft_config={config},\n")


def _arguments(plan: Plan, run_folder: Path) -> dict[str, Any]:
    """Return the arguments of the PEFT configuration."""
    row, spec = plan.update, plan.spec
    found: dict[str, Any] = {name: getattr(spec, key) for name, key in row.arguments.items()}
    if "lora_alpha" in row.options:
        found["lora_alpha"] = plan.settings.lora_alpha
    if "target_modules" in row.options:
        found["target_modules"] = spec.target_modules or "all-linear"
    elif not row.virtual_tokens:
        found |= _modules(run_folder)
    if "modules_to_save" in row.options and spec.modules_to_save:
        found["modules_to_save"] = spec.modules_to_save
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return found | dict(row.settings) | {"task_type": "SEQ_CLS" if plan.method.score_head else "CAUSAL_LM"}


def _modules(run_folder: Path) -> dict[str, list[str]]:
    """Return the modules that training found in the model."""
    path = run_folder / "adapter" / "adapter_config.json"
    if not path.is_file():
        raise ExportError(
            f"run {run_folder.name} has not trained yet, so the modules of its update are not known.",
            "Ask for the script once the run has finished.",
        )
    said = json.loads(path.read_text(encoding="utf-8"))
    return {key: sorted(said[key]) for key in ("target_modules", "feedforward_modules") if said.get(key)}
