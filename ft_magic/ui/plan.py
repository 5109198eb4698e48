"""A plan, the grid and the axes as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ft_magic.ui.show import Shown, gib, seconds, shown_table

if TYPE_CHECKING:
    from ft_magic.planning.plans import Cell, Plan

_HIDDEN = {"device", "weight_bytes", "threads"}
_ALWAYS = {
    "packing",
    "gradient_checkpointing",
}  # said also where they are off; other empty settings do not apply


def shown_plan(plan: Plan) -> Shown:
    """Return every decided number with its reason, memory by part, and what to act on."""
    settings = asdict(plan.settings)
    rows = [
        [name, _value(value), plan.reasons.get(name, "")]
        for name, value in settings.items()
        if name not in _HIDDEN and (name in _ALWAYS or value or plan.reasons.get(name))
    ]
    eta = f", roughly {seconds(plan.eta_s)}" if plan.eta_s else ""
    title = (
        f"Plan: {plan.method.name} x {plan.update.name} on {plan.model_name}: {plan.settings.total_steps} steps over "
        f"{plan.examples} rows, {plan.heldout_examples} held out{eta}"
    )
    took = f"Roughly {seconds(plan.eta_s)}" if plan.eta_s else "How long it takes is"
    notes = [f"{took}{': ' if plan.eta_s else ' '}{plan.eta_source}."] if plan.eta_source else []
    notes += [*plan.notes, *(f"Warning: {w.message} {w.fix}" for w in plan.warnings)]
    return shown_table(rows, ("setting", "value", "why"), title=title, notes=notes) + shown_memory(plan)


def shown_memory(plan: Plan) -> Shown:
    """Return the memory estimate by part, and what was measured since, in GiB."""
    estimated = plan.memory.total_bytes
    rows = [[name, gib(size)] for name, size in plan.memory.parts.items() if size]
    rows.append(["total", gib(estimated)])
    note = f"{gib(plan.memory_limit_bytes)} free here; an estimate from the model's configuration."
    if plan.measured_bytes:
        rows.append(["measured", gib(plan.measured_bytes)])
        off = plan.measured_bytes / estimated - 1 if estimated else 0.0
        free = gib(plan.memory_limit_bytes)
        note = f"{free} free here. Measured by {plan.measured_where}: {off:+.0%} of the estimate."
    return shown_table(rows, ("memory", "peak"), notes=[note])


def plan_text(plan: Plan) -> str:
    """Return the plan as text."""
    return shown_plan(plan).text


def plan_html(plan: Plan) -> str:
    """Return the plan as HTML."""
    return shown_plan(plan).html


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_grid(cells: Sequence[Cell]) -> Shown:
    """Return the grid method x update, each cell naming the backends that run it and why others do not."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    updates = list(dict.fromkeys(cell.update for cell in cells))
    notes: dict[str, int] = {}
    rows: list[list[str]] = []
    for method in methods:
        row = [method]
        for update in updates:
            found = [cell for cell in cells if (cell.method, cell.update) == (method, update)]
            works = [cell.backend for cell in found if not cell.reason]
            marks = [f"({notes.setdefault(cell.reason, len(notes) + 1)})" for cell in found if cell.reason]
            row.append(" ".join([*works, *marks]))
        rows.append(row)
    lines = [f"({number}) {reason}." for reason, number in notes.items()]
    return shown_table(rows, ("method", *updates), title="method x update: backends that run it", notes=lines)
