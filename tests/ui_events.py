"""A made-up run for tests and pictures: 60 steps, five evaluations, checkpoints, a kill and a resume."""

from __future__ import annotations

import math
import random

from ft_magic.events import Event

START_T = 1_790_000_000.0


def sample_run(
    steps: int = 60,
    *,
    method: str = "sft",
    resume_at: int | None = 30,
    lost: int = 7,
    end: str | None = "finished",
    step_s: float = 2.0,
    name: str = "run",
) -> list[Event]:
    """Return the events of a run that falls from a loss of about 3.1 to about 1.2.

    With ``resume_at`` the worker is killed ``lost`` steps after that checkpoint and goes on from it.
    """
    rng, t = random.Random(7), START_T
    planned = {
        "name": name, "method": method, "update": "lora", "backend": "trl", "total_steps": steps,
        "model": "/cache/models/SmolLM2-135M-Instruct",
    }  # fmt: skip
    events = [Event("planned", t, planned), Event("started", t + 1, {"pid": 4242})]
    events.append(Event("progress", t + 2, {"what": "Loading the model", "done": 0, "total": 1}))
    loaded = {
        "model": "demo",
        "trainable_parameters": 4_884_480,
        "total_parameters": 139_400_064,
        "seconds": 2.6,
    }
    events.append(Event("loaded", t + 4, loaded))
    events.append(Event("eval", t + 5, {"step": 0, "loss": 3.02, "metrics": {}}))
    t += 5
    first = steps if resume_at is None else min(resume_at + lost, steps)
    t = _steps(events, rng, 1, first, steps, t, method, step_s)
    if resume_at is not None and first < steps:
        events.append(Event("started", t + 600, {"pid": 4343}))
        t = _steps(events, rng, resume_at + 1, steps, steps, t + 604, method, step_s)
    if end == "finished":
        events.append(Event("finished", t + 1, {"step": steps, "seconds": steps * step_s, "path": "adapter"}))
    elif end == "failed":
        events.append(
            Event("failed", t + 1, {"message": "out of memory", "advice": "smaller batch", "log": "log.txt"})
        )
    elif end == "stopped":
        events.append(Event("stopped", t + 1, {"step": steps, "reason": "interrupted"}))
    return events


def _steps(events, rng, first, last, total, t, method, step_s):
    for step in range(first, last + 1):
        t += step_s
        events.append(Event("step", t, step_fields(rng, step, total, method, step_s)))
        if step == 12:
            events.append(
                Event(
                    "warning", t, {"message": "3 rows are longer than max_length", "fix": "max_length: 1024"}
                )
            )
        if step % max(total // 5, 1) == 0:
            events.append(
                Event(
                    "eval",
                    t,
                    {"step": step, "loss": 1.25 + 1.75 * math.exp(-4 * step / total), "metrics": {}},
                )
            )
        if step % max(total // 4, 1) == 0:
            events.append(Event("checkpoint", t, {"step": step, "path": f"checkpoints/checkpoint-{step}"}))
    return t


def step_fields(rng, step, total, method="sft", step_s=2.0):
    x = step / total
    metrics = {}
    if method == "dpo":
        margin = 1.6 * (1 - math.exp(-3 * x)) + rng.gauss(0, 0.15)
        metrics = {
            "rewards/margins": margin,
            "rewards/accuracies": min(
                1.0, max(0.0, 0.5 + 0.45 * (1 - math.exp(-4 * x)) + rng.gauss(0, 0.05))
            ),
            "rewards/chosen": 0.4 * margin,
            "rewards/rejected": -0.6 * margin,
        }
    return {
        "step": step, "total_steps": total, "epoch": 2 * x, "loss": 1.1 + 1.9 * math.exp(-4 * x) + rng.gauss(0, 0.18),
        "learning_rate": 2e-4 * min(step / (0.1 * total), 1) * 0.5 * (1 + math.cos(math.pi * x)),
        "grad_norm": 0.8 + 1.5 * math.exp(-6 * x) + abs(rng.gauss(0, 0.12)), "tokens": 470 * step,
        "tokens_per_s": 235 + rng.gauss(0, 12), "step_s": step_s, "memory_bytes": int(1.9e9 + 4e7 * min(step, 5)),
        "eta_s": step_s * (total - step), "metrics": metrics,
    }  # fmt: skip


EVALUATED = {
    "figures": [{"name": "held-out loss (nats a token)", "before": 3.02, "after": 1.28, "higher": False, "share": False}],
    "examples": 40, "loss_before": 3.02, "loss_after": 1.28, "accuracy_before": None, "accuracy_after": None,
    "scores_before": {"valid JSON": 0.0}, "scores_after": {"valid JSON": 0.95},
    "verdict": "better: held-out loss 3.020 before, 1.280 after.",
    "samples": [
        {"prompt": "What is the capital of France?", "expected": '{"answer": "Paris"}',
         "before": "The capital of France is Paris.", "after": '{"answer": "Paris"}'},
        {"prompt": "Is <b>2</b> even?", "expected": '{"answer": "yes"}',
         "before": "<script>alert(1)</script>", "after": '{"answer": "yes"}'},
    ],
}  # fmt: skip
PLAN = {
    "model_folder": "/cache/models/SmolLM2-135M-Instruct", "model_name": "demo",
    "spec": {"model": "demo", "method": "sft"},
    "settings": {"backend": "trl", "precision": "fp32", "learning_rate": 2e-4, "total_steps": 60, "batch_size": 8},
    "reasons": {"precision": "this processor has no fast bf16", "learning_rate": "default of sft with an adapter"},
    "memory": {"weights": 538_060_032, "adapter": 19_537_920, "activations": 612_368_384},
    "memory_limit_bytes": 20_000_000_000, "examples": 240, "heldout_examples": 40, "epochs": 2.0, "eta_s": 150.0,
    "environment": {"OMP_WAIT_POLICY": "PASSIVE"},
    "warnings": [{"message": "fewer than 300 rows", "fix": "add rows"}], "notes": ["2 rows were cut at 512 tokens."],
}  # fmt: skip
CERTIFICATE = {
    "verdict": "equal: every form answers as the trained model does",
    "reference": "adapter",
    "forms": [
        {"form": "merged", "greedy_agreement": 1.0, "mean_token_kl": 1.2e-6, "bytes": 270_000_000, "verdict": "equal"},
        {"form": "q8_0", "greedy_agreement": 0.99, "mean_token_kl": 3.1e-4, "bytes": 145_000_000, "verdict": "equal"},
        {"form": "q4_k_m", "greedy_agreement": 0.93, "mean_token_kl": 0.012, "bytes": 105_000_000, "verdict": "close"},
    ],
}  # fmt: skip


def write_run(folder, events=None):
    """Write a run folder with every part a report reads."""
    import json

    events = list(sample_run() if events is None else events)
    t = events[-1].t if events else START_T
    events += [
        Event("evaluated", t + 9, EVALUATED),
        Event("merged", t + 20, {"path": "merged", "bytes": 270_000_000}),
        Event("quantized", t + 30, {"path": "gguf/run-Q4_K_M.gguf", "type": "Q4_K_M", "bytes": 105_000_000}),
        Event("certified", t + 60, {"path": "certificate.json", "verdict": "equal"}),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(event.to_json() + "\n" for event in events))
    (folder / "spec.yaml").write_text("model: demo\nmethod: sft\ndata: <house & style>.jsonl\n")
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder / "certificate.json").write_text(json.dumps(CERTIFICATE))
    (folder / "run.json").write_text(
        json.dumps({"status": "finished", "versions": {"python": "3.11", "trl": "1.14.2"}})
    )
    return folder
