"""``%ft memory`` in a notebook: what stays (table, chart), and below it the live widget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_magic.memory import Memory
from ft_magic.memory.cards import Card
from ft_magic.ui import memory_chart, widget
from ft_magic.ui.environment import has_kernel
from ft_magic.ui.memory_answer import answer
from ft_magic.ui.memory_choices import SEARCHED, STOPS, Choice, Model, menus, read_choice
from ft_magic.ui.show import Shown, badge_html, gib, shown_table

_WORDS = "Run this cell to change the settings here: model, method, length, card, and what fits."


@dataclass(frozen=True, repr=False)
class MemoryCard:
    """An estimate to look at: a table with its notes, a chart, and in a watched notebook a widget.

    Attributes:
        memory: the estimate.
        shown: its table.
        card: whose limit the chart shows, or None.
        choice: what the widget starts with.
        models: the models of its menu.
    """

    memory: Memory
    shown: Shown
    card: Card | None
    choice: Choice
    models: tuple[Model, ...]

    @property
    def text(self) -> str:
        """The table for terminals and logs."""
        return self.shown.text

    def _repr_mimebundle_(self, **_chosen: Any) -> dict[str, str]:
        picture = memory_chart.image(self.memory, self.card)
        return {"text/html": self.shown.html + picture, "text/plain": self.shown.text}

    def _ipython_display_(self) -> None:
        """Show table, chart and widget in a notebook; elsewhere IPython shows the text."""
        if not has_kernel():
            raise NotImplementedError
        from IPython.display import display

        display(self.shown)
        chart = memory_chart.bundle(self.memory, self.card)
        if widget.drawable():
            widget.show(chart, memory_widget(self.choice, self.models), _WORDS)
        else:
            display(chart, raw=True)

    def __repr__(self) -> str:
        return self.shown.text


def memory_widget(choice: Choice, models: Sequence[Model]) -> Any:
    """Return the widget: menus and sliders, and what each choice needs.

    Args:
        choice: what it starts with.
        models: of its menu.

    Raises:
        RunError: anywidget is not installed.
    """

    def reply(content: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one message; ``number`` and ``view`` let the front end drop what came too late."""
        chosen = content.get("choice")
        found = answer(read_choice(chosen if isinstance(chosen, Mapping) else {}, models), models)
        return {"answer": found, "number": content.get("number"), "view": content.get("view")}

    state = {
        "menus": menus(models),
        "stops": {name: list(stops) for name, stops in STOPS.items()},
        "searched": list(SEARCHED),
        "answer": answer(choice, models),
    }
    return widget.make("memory.js", state, reply)


def shown_memory(
    memory: Memory, title: str, notes: Sequence[str], verdict: tuple[str, str] | None = None
) -> Shown:
    """Return the table of an estimate: each part with what it is, then the three sums.

    Args:
        memory: the estimate.
        title: a line above.
        notes: lines below.
        verdict: words and colour of the badge above the table.
    """
    rows: list[list[object]] = [
        [name, gib(size), meaning] for name, size, _colour, meaning in memory_chart.shares(memory)
    ]
    rows += [
        ["allocated", gib(memory.allocated_bytes), "all tensors"],
        ["reserved", gib(memory.reserved_bytes), "what PyTorch takes from the card"],
        ["device", gib(memory.device_bytes), "what nvidia-smi shows"],
    ]
    shown = shown_table(rows, ("part", "peak", "what it is"), title=title, notes=notes)
    if verdict is None:
        return shown
    return Shown(f"{badge_html(*verdict)}{shown.html}", f"{verdict[0]}\n{shown.text}")


def memory_html(memory: Memory) -> str:
    """Return an estimate as it shows itself at the end of a cell: table and picture."""
    low, high = memory.band
    notes = [f"Between {gib(low)} and {gib(high)}.", *memory.notes]
    return shown_memory(memory, memory_chart.title_of(memory), notes).html + memory_chart.image(memory)
