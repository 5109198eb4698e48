"""The same work with ft_magic: kernel side, worker, events and live chart as in a notebook.

python bench/ft_magic_script.py WORK.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from work import Work

import ft_magic as ft
from ft_magic.ui import live
from ft_magic.ui.screens import Frame

# Ways to save time that are variables of the worker's process.
_IN_ENVIRONMENT = {"waiting": "OMP_WAIT_POLICY", "pages": "THP_MEM_ALLOC_ENABLE"}


class Drawn:
    """Takes each frame as a kernel does: builds the whole bundle and writes it as JSON."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.bytes: list[int] = []
        self.first: tuple[float, float] = (0.0, 0.0)

    def __call__(self, frame: Frame) -> None:
        begun = time.perf_counter()
        if not self.times_s:
            self.first = (begun, time.process_time())
        self.bytes.append(len(json.dumps(dict(frame.bundle()))))
        self.times_s.append(time.perf_counter() - begun)


def main() -> None:
    work = Work.read(sys.argv[1])
    folder = Path(work.folder)
    os.environ["FT_MAGIC_RUNS"] = str(folder)
    os.environ["FT_MAGIC_BENCH_RESULT"] = work.result
    os.environ["FT_MAGIC_BENCH_BEGAN_T"] = str(work.began_t)
    drawn = Drawn()
    live.pick = lambda: drawn  # no notebook here: its display is the one thing replaced
    run = ft.finetune(**spec(work), python=str(_interpreter(folder)))
    began_s, began_cpu_s = drawn.first
    seen = {
        "follow_s": time.perf_counter() - began_s,
        "follow_cpu_s": time.process_time() - began_cpu_s,
        "draw_s": drawn.times_s,
        "draw_bytes": drawn.bytes,
        "checkpointing": run.plan.settings.gradient_checkpointing,
        "environment": dict(run.plan.environment),
        "events": str(run.folder.events),
    }
    result = Path(work.result)
    result.write_text(json.dumps(json.loads(result.read_text()) | seen), encoding="utf-8")


def spec(work: Work) -> dict:
    """Return the work in ft_magic's words; what it leaves open, the plan decides."""
    own = {} if work.checkpointing is None else {"gradient_checkpointing": work.checkpointing}
    if work.whole_batch:
        own["micro_batch_size"] = work.batch_examples
    return dict(
        model=work.model,
        data=work.data,
        method="sft",
        update="lora",
        backend="trl",
        name="bench",
        max_steps=work.steps,
        batch_size=work.batch_examples,
        learning_rate=work.learning_rate,
        lora_r=work.rank,
        max_length=work.max_length_tokens,
        seed=work.seed,
        warmup_ratio=0.0,
        eval_fraction=0.0,
        save_steps=500,  # transformers' default, as the others have it
        **own,
    )


def _interpreter(folder: Path) -> Path:
    """Write the command that stands in for the worker's Python interpreter."""
    path = folder / "metered_python"
    script = Path(__file__).with_name("metered_worker.py")
    ways = os.environ.get("FT_MAGIC_BENCH_WITHOUT", "").split(",")
    unset = "".join(f"unset {name}\n" for way, name in _IN_ENVIRONMENT.items() if way in ways)
    path.write_text(f'#!/bin/sh\n{unset}exec "{sys.executable}" "{script}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    main()
