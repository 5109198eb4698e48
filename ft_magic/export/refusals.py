"""What cannot become one set of weights, said before any work is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ft_magic.errors import ExportError

if TYPE_CHECKING:
    from ft_magic.planning.plans import Plan

_TOKENS = "it learns what stands in front of the text, not weights"
_LAYERS = "it adds layers that the base's architecture does not have"
# Types that adapter_config.json names, of adapters made here or elsewhere.
_UNMERGEABLE = {
    "BOTTLENECK": _LAYERS,
    "ADAPTION_PROMPT": _LAYERS,
    "PROMPT_TUNING": _TOKENS,
    "MULTITASK_PROMPT_TUNING": _TOKENS,
    "PREFIX_TUNING": _TOKENS,
    "P_TUNING": _TOKENS,
    "CPT": _TOKENS,
}
_INSTEAD = (
    "Serve it beside its base: run.generate(prompts), or PEFT with transformers. Or train with update: lora."
)


def check_plan(plan: Plan) -> None:
    """Refuse a run whose result cannot be merged, and so become a GGUF file.

    Raises:
        ExportError: its update learns no weights of the base, or it scores answers instead of giving them.
    """
    if plan.method.score_head:
        raise ExportError(
            f"A run of method '{plan.method.name}' gives scores, not answers, so there is nothing to merge.",
            "Use it as it is: rewards: $run.",
        )
    if not plan.update.merges:
        why = _TOKENS if plan.update.virtual_tokens else _LAYERS
        raise _error(f"update: {plan.update.name}", why)


def check_adapter(adapter: Path) -> None:
    """Refuse an adapter folder whose type cannot be merged.

    Raises:
        ExportError: says why.
    """
    kind = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type", "")
    if kind in _UNMERGEABLE:
        raise _error(f"type {kind}", _UNMERGEABLE[kind])


def _error(what: str, why: str) -> ExportError:
    return ExportError(
        f"An adapter of {what} cannot be merged, so there is no GGUF or Ollama file of it either: {why}.",
        _INSTEAD,
    )
