"""Train the bundled 135M model with each method on real data and measure held-out rows before and after.

python bench/methods.py [--methods sft dpo ...] [--seeds 0 1 2] [--steps N] [--fresh]

Writes bench/out/methods.json after each run, so that an interrupted measurement goes on, and prints Markdown.
Data: $FT_MAGIC_DATA, else a folder shared/data beside the checkout (see docs/results.md for the files).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ft_magic as ft
from ft_magic import jobs
from ft_magic.data import Data
from ft_magic.data.row import prompt_text

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "out"
DATA = Path(os.environ.get("FT_MAGIC_DATA", ROOT.parent / "shared" / "data"))
SHORT_PROMPT = 350  # characters
SHORT_QUESTION = 150  # characters
LONGEST_CHARACTERS = 600  # longer questions and answers are left out: a CPU pays for every token
NUMBER_ALONE = "\nAnswer with the number alone."


def brief_number(completion: str) -> float:
    """1 for an answer that is a number alone, less for each word beside it, 0 without a number."""
    words = completion.split()
    if not any(letter.isdigit() for letter in completion):
        return 0.0
    return max(0.0, 1.0 - (len(words) - 1) / 20)


def pairs() -> Data:
    """Preference pairs with short prompts; both answers are cut where the plan says."""
    return _short_prompts(ft.load_data(DATA / "dpo_en_demo.json"), SHORT_PROMPT)


def labels() -> Data:
    """Answers marked good or bad."""
    return _short_prompts(ft.load_data(DATA / "kto_en_demo.json"), SHORT_PROMPT)


def _short_prompts(data: Data, characters: int) -> Data:
    kept = [i for i, row in enumerate(data) if len(prompt_text(row)) < characters]
    return data.part(kept, f"prompts below {characters} characters")


def short_demos(count: int = 440) -> Data:
    """Short Alpaca demonstrations."""
    data = ft.load_data(DATA / "alpaca_en_demo.json")
    kept = [
        i for i, row in enumerate(data)
        if len(str(row["prompt"])) + len(str(row["completion"])) < LONGEST_CHARACTERS
    ]  # fmt: skip
    return data.part(kept[:count], f"the first {count} rows below {LONGEST_CHARACTERS} characters")


def sums(count: int = 200) -> Data:
    """Grade-school questions with a wish for a bare number."""
    data = ft.load_data(DATA / "gsm8k_train.jsonl", signal="prompt")
    rows = [
        {"prompt": row["prompt"] + NUMBER_ALONE, "answer": row["answer"].rpartition("####")[2].strip()}
        for row in data
        if len(row["prompt"]) < SHORT_QUESTION
    ]
    return ft.load_data(rows[:count], signal="prompt")


def wiki() -> Data:
    """Encyclopaedia paragraphs, one document a line, in pieces of at most 900 characters."""
    lines = (DATA / "wiki_demo.txt").read_text(encoding="utf-8").splitlines()
    pieces = [line[at : at + 900] for line in lines for at in range(0, len(line), 900)]
    return ft.load_data([{"text": piece} for piece in pieces if len(piece) > 200])


@dataclass(frozen=True)
class Task:
    """What one method is measured on.

    Attributes:
        data: makes the rows.
        steps: optimizer steps.
        options: further settings of the run.
        given: keys that take another run: key -> task.
        method: name of the method, where the task has another name.
    """

    data: Callable[[], Data]
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    method: str = ""


_PAIRS = {"max_length": 128, "batch_size": 4, "eval_fraction": 0.3}
_ANSWERS = {"batch_size": 4, "max_completion_length": 20, "eval_fraction": 0.2}
_REWARDS = {"rewards": [brief_number, {"reward": "exact_answer", "weight": 1.0}]}
TASKS = {
    "sft": Task(short_demos, 30, {"batch_size": 8, "learning_rate": 2e-4}),
    "cpt": Task(wiki, 30, {"batch_size": 4, "max_length": 256, "learning_rate": 2e-4, "eval_fraction": 0.2}),
    "dpo": Task(pairs, 25, _PAIRS | {"learning_rate": 5e-5}),
    "ipo": Task(pairs, 25, _PAIRS | {"learning_rate": 5e-5}),
    "orpo": Task(pairs, 25, _PAIRS | {"learning_rate": 1e-4}),
    "simpo": Task(pairs, 25, _PAIRS | {"learning_rate": 5e-5}),
    "cpo": Task(pairs, 25, _PAIRS | {"learning_rate": 5e-5}),
    "kto": Task(labels, 15, _PAIRS | {"learning_rate": 1e-4, "batch_size": 8}),
    "reward": Task(pairs, 25, _PAIRS | {"learning_rate": 1e-4}),
    "grpo": Task(sums, 20, _ANSWERS | _REWARDS | {"learning_rate": 3e-4, "num_generations": 4}),
    "rloo": Task(sums, 20, _ANSWERS | _REWARDS | {"learning_rate": 3e-4, "num_generations": 4}),
    "ppo": Task(
        sums,
        20,
        _ANSWERS | _REWARDS | {"learning_rate": 2e-4, "beta": 0.05, "trainer": {"num_ppo_epochs": 2}},
    ),
    "ppo without a leash": Task(
        sums,
        20,
        _ANSWERS | _REWARDS | {"learning_rate": 2e-4, "beta": 0.0, "trainer": {"num_ppo_epochs": 2}},
        method="ppo",
    ),
    "online_dpo": Task(sums, 20, _ANSWERS | _REWARDS | {"learning_rate": 3e-4}),
    "spin": Task(
        short_demos,
        30,
        {"batch_size": 4, "iterations": 2, "max_completion_length": 48, "learning_rate": 5e-5},
    ),
    "distill": Task(
        short_demos,
        25,
        {"batch_size": 4, "max_completion_length": 48, "learning_rate": 2e-4},
        {"teacher": "sft"},
    ),
}


def measure(method: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Train one method with one seed and return its figures."""
    task = TASKS[method]
    given = {key: run_of(other, seed) for key, other in task.given.items()}
    options = dict(task.options) | given
    started = time.monotonic()
    run = ft.finetune(
        model="demo", data=task.data(), method=task.method or method, name=name_of(method, seed), seed=seed,
        max_steps=steps or task.steps, eval_steps=10_000, save_steps=10_000, detach=True, **options,
    )  # fmt: skip
    status = run.wait()
    if status != "finished":
        raise RuntimeError(f"{method}: {status}\n{run.logs()}")
    trained_s = time.monotonic() - started
    result = run.evaluate(samples=0, max_new_tokens=options.get("max_completion_length", 32))
    jobs.unload()
    return {
        "method": method, "seed": seed, "steps": steps or task.steps, "examples": result.examples,
        "batch": options["batch_size"], "rate": options["learning_rate"], "seconds": round(trained_s),
        "figures": [figure.to_dict() for figure in result.figures],
        "last": {k: v for k, v in run.metrics()[-1].items() if isinstance(v, int | float)},
        "kl": [row["kl"] for row in run.metrics() if "kl" in row],
    }  # fmt: skip


def name_of(method: str, seed: int) -> str:
    return f"methods-{method.replace(' ', '-')}-{seed}"


def run_of(method: str, seed: int) -> Any:
    """Return the measured run of another method, training it where it is missing."""
    found = [run for run in ft.runs() if run.name == name_of(method, seed) and run.status == "finished"]
    if not found:
        measure(method, seed, None)
        found = [run for run in ft.runs() if run.name == name_of(method, seed)]
    return found[0]


def markdown(results: list[dict[str, Any]]) -> str:
    """Return a table: one line a method and figure, mean over seeds with the spread."""
    lines = [
        "| method | held-out rows | budget | figure | before | after | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(result["method"] for result in results):
        runs = [result for result in results if result["method"] == method]
        budget = f"{runs[0]['steps']} steps of {runs[0]['batch']}, rate {runs[0]['rate']:g}"
        for at, figure in enumerate(runs[0]["figures"]):
            sides = [[run["figures"][at][side] for run in runs] for side in ("before", "after")]
            cells = [_cell(side, share=figure["share"]) for side in sides]
            head = [f"`{method}`", str(runs[0]["examples"]), budget] if at == 0 else ["", "", ""]
            lines.append(
                "| " + " | ".join([*head, figure["name"], *cells, str(len(runs)) if at == 0 else ""]) + " |"
            )
    return "\n".join(lines)


def _cell(values: list[float | None], *, share: bool) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    scale, digits = (100, 0) if share else (1, 3)
    mean, spread = statistics.fmean(known) * scale, (max(known) - min(known)) / 2 * scale
    text = f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(known) > 1 else "")
    return text + (" %" if share else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--out", default="methods.json")
    asked = parser.parse_args()
    os.environ.setdefault("FT_MAGIC_RUNS", str(OUT / "runs"))
    OUT.mkdir(exist_ok=True)
    file = OUT / asked.out
    results = json.loads(file.read_text()) if file.exists() else []
    for seed in asked.seeds:
        for method in asked.methods:
            known = [r for r in results if (r["method"], r["seed"]) == (method, seed)]
            if known and not asked.fresh:
                continue
            results = [r for r in results if r not in known] + [measure(method, seed, asked.steps)]
            file.write_text(json.dumps(results, indent=1))
            print(markdown([results[-1]]), flush=True)
    order = list(TASKS)
    print(markdown(sorted(results, key=lambda r: (order.index(r["method"]), r["seed"]))))


if __name__ == "__main__":
    main()
