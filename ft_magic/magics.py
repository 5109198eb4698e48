"""The magics: ``%%finetune``, one per method (``%%sft``, ``%%cpt``, ``%%dpo``), ``%%reward_fn``, and ``%ft VERB``.

Loading them is part of every notebook's first cell, so nothing here imports more than IPython has loaded; the
work is one call into ``calls`` (what was typed), ``requests`` (which verb) and ``actions`` (do it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from ft_magic.axes import METHODS, Method
from ft_magic.axes.pipelines import PIPELINES, Pipeline
from ft_magic.shell import completion

Magic = TypeVar("Magic", bound=Callable[..., Any])

_UNDER_WAY = ("planned", "running", "paused")


def _dual(function: Magic) -> Magic:
    """Mark a magic for both its line and its cell form, without IPython's silent ``$``-expansion."""
    marked: Magic = no_var_expand(line_cell_magic(function))
    return marked


class FineTuning(Magics):  # type: ignore[misc]  # IPython has no complete types
    """Fine-tuning in a notebook; ``%ft --help`` lists the verbs, ``%%finetune --help`` the settings."""

    @_dual
    def finetune(self, line: str, cell: str | None = None) -> Any:
        """Fine-tune a model: settings as ``key: value`` lines below, or ``key=value`` on the line.

        ``%%finetune [NAME] [key=value ...] [--detach] [--dry-run] [--help]``

        NAME is the variable that will hold the run. ``$name`` as a value is a Python variable.
        """
        return self._start(line, cell)

    @_dual
    def ft(self, line: str, cell: str | None = None) -> Any:
        """Do everything around a training; ``%ft --help`` lists the verbs."""
        from ft_magic.shell import calls, requests

        request = requests.read(calls.arguments(line), cell)
        result = requests.do(request, self.shell.user_ns)
        return self._seen(result) if request is not None and request.verb.live else result

    @_dual
    def reward_fn(self, line: str, cell: str | None = None) -> Any:
        """Define a reward function, try it out and show what it scores; ``--help`` lists the built-in ones.

        ``%%reward_fn NAME [data=$ds] [n=8]``, and ``def NAME(completion, answer): ...`` below. ``%reward_fn NAME``
        tries a function again.
        """
        from ft_magic.shell import reward_cell

        return reward_cell.define(line, cell, self.shell.user_ns)

    def _start(self, line: str, cell: str | None, method: str | None = None) -> Any:
        from ft_magic.shell import actions, calls

        call = calls.parse(line, cell, method)
        result = actions.start(call, self.shell.user_ns)
        if call.help or call.dry_run:
            return result
        if call.variable:
            self.shell.user_ns[call.variable] = result
        return self._seen(result)

    def _seen(self, run: Any) -> Any:
        """Keep a run that was followed to its end out of a notebook cell's output: its chart stands there.

        The run stays the cell's value (``Out[n]``, ``r = %sft ...``), and later cells show it as usual.
        """
        notebook = getattr(self.shell, "kernel", None) is not None
        if not notebook or getattr(run, "status", _UNDER_WAY[0]) in _UNDER_WAY:
            return run
        made = self.shell.execution_count

        def show() -> None:
            if self.shell.execution_count != made:
                from IPython.display import display

                del run._ipython_display_
                display(run)

        run._ipython_display_ = show
        return run


def _pinned(method: Method | Pipeline) -> Callable[..., Any]:
    """Return the magic of one method or pipeline."""

    def magic(self: FineTuning, line: str, cell: str | None = None) -> Any:
        return self._start(line, cell, method.name)

    magic.__name__ = method.name
    magic.__doc__ = f"""{method.title}

        ``%%{method.name} [NAME] [key=value ...] [--detach] [--dry-run] [--help]``: as ``%%finetune`` with
        ``method: {method.name}``. The data carries: {method.signal}.
        """
    return _dual(magic)


_PINNED: tuple[Method | Pipeline, ...] = (*METHODS.values(), *PIPELINES.values())
for _method in _PINNED:
    setattr(FineTuning, _method.name, _pinned(_method))
# As a call, not a decorator: it collects the marked functions of the loop above as well.
magics_class(FineTuning)


def _without_body(lines: list[str]) -> list[str]:
    """Turn ``%%finetune ...`` with nothing below into its line form, which IPython would otherwise refuse."""
    written = [line for line in lines if line.strip()]
    name = written[0].lstrip().split()[0] if len(written) == 1 else ""
    if name.startswith("%%") and name[2:] in _NAMES:
        return [written[0].replace("%%", "%", 1)]
    return lines


_NAMES = ("ft", "finetune", "reward_fn", *METHODS, *PIPELINES)


def load(shell: Any) -> None:
    """Register the magics and their completion."""
    unload(shell)
    shell.register_magics(FineTuning)
    shell.input_transformers_cleanup.insert(0, _without_body)
    completion.install(shell)


def unload(shell: Any) -> None:
    """Remove the magics and their completion; a shell that never had them stays as it is."""
    # IPython has no way to unregister, so every list it put them on is cleared here.
    for kind in shell.magics_manager.magics.values():
        for name in _NAMES:
            if _ours(kind.get(name)):
                del kind[name]
    shell.magics_manager.registry.pop(FineTuning.__name__, None)
    shell.configurables[:] = [part for part in shell.configurables if not isinstance(part, FineTuning)]
    while _without_body in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_without_body)
    completion.remove(shell)


def _ours(function: Any) -> bool:
    return isinstance(getattr(function, "__self__", None), FineTuning)
