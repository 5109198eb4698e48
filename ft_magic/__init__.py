"""ft_magic: from raw data to a quantized model that talks, in notebook magics.

    import ft_magic as ft
    run = ft.finetune(model="demo", data="alpaca.json")

Fine-tuning = signal (data) x method (loss) x update (which weights); ``ft_magic.axes`` has the three tables.
Names load when first used, so that importing the package, or ``%load_ext ft_magic``, costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_PUBLIC = {
    "Advice": "ft_magic.advising",
    "Data": "ft_magic.data",
    "FTError": "ft_magic.errors",
    "Judgement": "ft_magic.judging",
    "Plan": "ft_magic.planning.plans",
    "Run": "ft_magic.run",
    "Spec": "ft_magic.spec",
    "advise": "ft_magic.advising",
    "check_template": "ft_magic.template",
    "estimate_memory": "ft_magic.memory.question",
    "finetune": "ft_magic.launch",
    "judge": "ft_magic.judging",
    "load_data": "ft_magic.data",
    "model_path": "ft_magic.models",
    "open_run": "ft_magic.run_list",
    "review": "ft_magic.ui.review",
    "runs": "ft_magic.run_list",
    "synthesise": "ft_magic.synthesis",
    "unload": "ft_magic.jobs",
}
# Public names that differ from the name in their module.
_RENAMED = {"plan": ("ft_magic.launch", "make_plan"), "grid": ("ft_magic.planning.plans", "grid")}

__all__ = sorted([*_PUBLIC, *_RENAMED, "last_run"])  # noqa: PLE0605  lazy names: the table above is the list


def __getattr__(name: str) -> Any:
    if name == "last_run":
        return importlib.import_module("ft_magic.run_list").last_run()
    module, attribute = _RENAMED.get(name, (_PUBLIC.get(name, ""), name))
    if not module:
        raise AttributeError(f"module 'ft_magic' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics: ``%load_ext ft_magic``."""
    from ft_magic.magics import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Remove the magics: ``%unload_ext ft_magic``."""
    from ft_magic.magics import unload

    unload(ipython)
