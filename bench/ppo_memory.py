"""Measure what one shared base saves PPO: peak memory of the four roles on one base and on four copies of it.

python bench/ppo_memory.py [--model demo] [--update lora] [--steps 2] [--batch 4] [--tokens 16]

Each way runs in a process of its own, on the same prompts, seeds and reward adapter, and prints one row of a Markdown
table. Bytes are this process's peak resident memory (VmHWM) above what it held before any model was loaded; a page
shared with another process would count whole. The losses of both ways must agree: it is the same arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAYS = {"shared": "one base, roles take turns", "copies": "four copies of the base"}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo")
    parser.add_argument("--update", default="lora")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--reward", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(measure(asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        reward = str(reward_adapter(asked.model, Path(folder) / "reward"))
        found = {way: in_process(way, reward, sys.argv[1:]) for way in WAYS}
    print(
        f"PPO, {asked.model}, update {asked.update}, {asked.steps} steps of {asked.batch} answers, {asked.tokens} tokens each\n"
    )
    print("| way | models loaded, MiB | peak while training, MiB | s a step | first loss | last loss |")
    print("|---|--:|--:|--:|--:|--:|")
    for way, row in found.items():
        print(
            f"| {WAYS[way]} | {row['loaded_bytes'] / MIB:.0f} | {row['peak_bytes'] / MIB:.0f} "
            f"| {row['step_s']:.1f} | {row['losses'][0]:.5f} | {row['losses'][-1]:.5f} |"
        )


def in_process(way: str, reward: str, arguments: list[str]) -> dict:
    environment = os.environ | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--way", way, "--reward", reward],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def reward_adapter(model: str, folder: Path) -> Path:
    """Write an adapter over a sequence classifier with small random weights: its size counts, not its taste."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    import ft_magic as ft

    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(
        ft.model_path(model), num_labels=1, dtype=torch.bfloat16
    )
    config = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear")
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def measure(asked: argparse.Namespace) -> dict:
    """Train in one of the ways and return bytes, seconds and losses."""
    import ft_magic as ft
    from ft_magic.backends import Job, ppo
    from ft_magic.backends.ppo_scores import Panel, SharedReward
    from ft_magic.events import Writer
    from ft_magic.run_folder import RunFolder

    rows = [
        {"prompt": f"Name {i + 2} things one finds in a kitchen."} for i in range(asked.batch * asked.steps)
    ]
    plan = ft.plan(
        model=asked.model, data=ft.load_data(rows, signal="prompt"), method="ppo", update=asked.update,
        rewards=[{"reward": "length", "max": 50}], max_steps=asked.steps, batch_size=asked.batch,
        micro_batch_size=2, max_completion_length=asked.tokens, eval_fraction=0, seed=1,
    )  # fmt: skip
    plan = replace(plan, settings=replace(plan.settings, save_steps=10**6))
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.train_rows.parent.mkdir()
        folder.train_rows.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        job = Job(folder, plan, None, detached=True)
        told = Writer(folder.events)
        panel = Panel(SharedReward("model", 1.0, Path(asked.reward)), None)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
        before = peak_bytes()
        roles = seated(asked.way, plan, Path(asked.reward))
        loaded = resident_bytes() - before
        ppo.run(job, told.emit, roles, panel, began_s=time.monotonic())
        steps = [json.loads(line) for line in folder.events.read_text().splitlines()]
    steps = [event for event in steps if event["kind"] == "step"]
    return {
        "loaded_bytes": loaded,
        "peak_bytes": peak_bytes() - before,
        "step_s": min(event["step_s"] for event in steps),
        "losses": [event["loss"] for event in steps],
    }


def seated(way, plan, reward):
    """Seat the roles: as ft_magic does, or each on a copy of the base that it alone holds."""
    import peft
    import torch

    from ft_magic.backends import adapters
    from ft_magic.backends.base_model import load_model
    from ft_magic.backends.ppo_roles import (
        POLICY,
        REWARD,
        VALUE,
        Roles,
        Seat,
        add_reward_adapter,
        add_value_adapter,
        prepare,
        roles_of,
    )  # fmt: skip

    torch.manual_seed(plan.spec.seed)
    if way == "shared":
        return roles_of(plan, reward, None)

    def wrapped():
        base = load_model(plan)
        prepare(base, plan)
        return peft.get_peft_model(base, adapters.adapter_config(base, plan))

    policy, value, judge = wrapped(), wrapped(), wrapped()
    reward_head = add_reward_adapter(judge, reward)
    head = add_value_adapter(value, reward, reward_head)
    for model in (value, judge):
        model.delete_adapter(POLICY)
    reference = load_model(plan).requires_grad_(requires_grad=False)
    return Roles(
        Seat(policy, POLICY), Seat(reference), Seat(value, VALUE, head), Seat(judge, REWARD, reward_head)
    )


def peak_bytes() -> int:
    return _status("VmHWM")


def resident_bytes() -> int:
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
