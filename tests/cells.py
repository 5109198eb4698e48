"""One cell of the grid, trained in this process: the real backend on a random Llama, without a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rows import demos, labels, pairs, prompts, texts
from situations import situation

from ft_magic import backends, events, rewards
from ft_magic.axes import METHODS
from ft_magic.backends import Job, Outcome
from ft_magic.models import facts
from ft_magic.planning import decide
from ft_magic.planning.plans import Lengths, Plan
from ft_magic.run_folder import RunFolder
from ft_magic.spec import parse

ROWS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "demo": demos, "pair": pairs, "text": texts, "label": labels, "prompt": prompts,
}  # fmt: skip
HELD_OUT = 4
# What a method cannot do without, small enough for a test.
NEEDS: dict[str, Any] = {
    "rewards": [{"reward": "length", "max": 20}, {"reward": "contains", "text": "e", "weight": 0.5}],
    "max_completion_length": 8,
    "num_generations": 2,
    "iterations": 2,
}


@dataclass(frozen=True)
class Trained:
    """A finished cell."""

    folder: RunFolder
    plan: Plan
    outcome: Outcome

    def events(self, kind: str) -> list[events.Event]:
        return [event for event in events.read(self.folder.events) if event.kind == kind]

    def weights(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        name = (
            "adapter/adapter_model.safetensors" if self.folder.adapter.exists() else "model/model.safetensors"
        )
        return load_file(self.folder.path / name)


def make(
    path: Path, model: Path, method: str, update: str, teacher: Path | None = None, **more: Any
) -> Trained:
    """Write a run folder, not trained yet."""
    row = METHODS[method]
    folder = RunFolder(path)
    (path / "data").mkdir(parents=True)
    data = ROWS[row.signal](24)
    for found, file in ((data[HELD_OUT:], folder.train_rows), (data[:HELD_OUT], folder.heldout_rows)):
        file.write_text("".join(json.dumps(one) + "\n" for one in found))
    spec: dict[str, Any] = {
        "model": str(model), "data": "rows", "method": method, "update": update, "max_steps": 2, "batch_size": 4,
        "eval_steps": 2, "save_steps": 1, "warmup_ratio": 0.0,
    }  # fmt: skip
    spec |= {key: value for key, value in NEEDS.items() if key in row.options}
    if "teacher" in row.options:
        spec["teacher"] = str(teacher)
    spec |= more
    if "rewards" in row.options:
        prepared = rewards.prepare(spec["rewards"], tuple(data[0]), data[:4])
        prepared.write(path)
        spec["rewards"] = rewards.describe(spec["rewards"])
    found = replace(
        situation(heldout=HELD_OUT), model_folder=str(model), facts=facts(model),
        lengths=Lengths((30,) * 20, (10,) * 20), teacher_folder=str(teacher) if "teacher" in row.options else "",
    )  # fmt: skip
    plan = decide.make(parse(spec), found)
    folder.plan.write_text(json.dumps(plan.to_dict()))
    folder.checkpoints.mkdir()
    folder.update_state(name=path.name, status="running", detached=True)
    return Trained(folder, plan, Outcome("planned", 0))


def train(cell: Trained, checkpoint: Path | None = None) -> Trained:
    """Train a cell, from a checkpoint where one is given."""
    writer = events.Writer(cell.folder.events)
    job = Job(cell.folder, cell.plan, checkpoint, detached=True)
    outcome = backends.load(cell.plan.settings.backend).train(job, writer.emit)
    writer.close()
    return replace(cell, outcome=outcome)
