"""Measure the same LoRA training by plain TRL, Unsloth and ft_magic, turn by turn, on this machine's processor.

python bench/run.py [--steps 6] [--batch 2] [--rounds 5] [--threads 1 2] [--programs NAME ...] [--beside]

Writes bench/out/bench.json and prints Markdown. Data: $FT_MAGIC_BENCH_DATA, else a file
data/alpaca_en_demo.json in a folder beside the checkout, else the package's sample.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from overhead import long_run
from tables import markdown
from work import ROOT, Work

from ft_magic import models, samples

OUT = ROOT / "bench" / "out"
QUIET_LOAD = 1.0  # above it something else runs, and several threads wait for each other at every matmul
LIMIT_S = 1800


@dataclass(frozen=True)
class Program:
    """One way to do the work.

    Attributes:
        title: how tables call it.
        script: file in this folder.
        checkpointing: as in ``Work``.
        stop_is_last: as in ``Work``.
        whole_batch: as in ``Work``.
        once: whether one run is enough, because only its losses are wanted.
        without: ways of ft_magic to save time that are switched off, see ``metered_worker.py``.
    """

    title: str
    script: str
    checkpointing: bool | None = None
    stop_is_last: bool = False
    whole_batch: bool = True
    once: bool = False
    without: tuple[str, ...] = ()


PROGRAMS = {
    "trl": Program("TRL", "trl_script.py"),
    "unsloth": Program("Unsloth", "unsloth_script.py"),
    "unsloth-free": Program("Unsloth, no checkpointing", "unsloth_script.py", checkpointing=False),
    "ft_magic": Program("ft_magic, as planned", "ft_magic_script.py", whole_batch=False),
    "ft_magic-whole": Program("ft_magic, whole batches", "ft_magic_script.py"),
    "ft_magic-checkpointing": Program("ft_magic, checkpointing", "ft_magic_script.py", checkpointing=True),
    "trl-labels": Program(
        "TRL, labels as ft_magic's", "trl_script.py", checkpointing=True, stop_is_last=True, once=True
    ),
    "trl-free": Program("TRL, no checkpointing", "trl_script.py", checkpointing=False),
}
# What each way to save time is worth: ft_magic as planned, without it.
_WAYS = {
    "matmul": "products by oneDNN",
    "loss": "loss of labelled tokens alone",
    "waiting": "threads that wait without spinning",
    "pages": "huge pages",
}
PROGRAMS |= {
    f"without-{way}": Program(
        f"ft_magic without: {what}", "ft_magic_script.py", whole_batch=False, without=(way,)
    )
    for way, what in _WAYS.items()
}
PROGRAMS["without-all"] = Program(
    "ft_magic without any of these", "ft_magic_script.py", whole_batch=False, without=tuple(_WAYS)
)
USUAL = ["trl", "trl-free", "unsloth", "unsloth-free", "ft_magic", "trl-labels"]
SHARES = [
    "ft_magic",
    "ft_magic-whole",
    "ft_magic-checkpointing",
    *(f"without-{way}" for way in _WAYS),
    "without-all",
]
# A script starts with what its user's shell has; waiting policies of make or of a test run are not that.
_NOT_INHERITED = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "FT_MAGIC_")
_EVERYWHERE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


def main() -> None:
    asked = _arguments()
    asked.programs = SHARES if asked.shares else asked.programs
    model = str(models.resolve(asked.model))
    work = Work(model=model, data=_data(), steps=asked.steps, batch_examples=asked.batch)
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        print(f"This machine is busy (load {load:.1f}): trust the cpu seconds of one thread, not the rest.")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    found = {
        "command": " ".join(["bench/run.py", *sys.argv[1:]]),
        "machine": _machine(),
        "work": vars(work) | _weights(work),
    }
    found |= {"titles": {name: row.title for name, row in PROGRAMS.items()}, "runs": []}
    found["floor"] = {threads: rates(threads) for threads in asked.threads}
    for threads in asked.threads:
        for turn in range(asked.rounds):
            for name in asked.programs:
                if turn and PROGRAMS[name].once:
                    continue
                with beside(asked.beside):
                    found["runs"].append(measure(name, work, threads, turn))
                print(_line(found["runs"][-1]), flush=True)
                _write(found)
    found["long_run"] = long_run(found["runs"])
    _write(found)
    print("\n" + markdown(found))


def _write(found: dict[str, Any]) -> None:
    (OUT / "bench.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def measure(name: str, work: Work, threads: int, turn: int) -> dict[str, Any]:
    """Run a program on as many cores as it has threads and return what its meter wrote.

    Raises:
        SystemExit: the program failed; the end of its log is shown.
    """
    program = PROGRAMS[name]
    folder = OUT / f"{name}-{threads}-{turn}"
    folder.mkdir()
    result, log = folder / "result.json", folder / "log.txt"
    work = replace(
        work,
        checkpointing=program.checkpointing,
        whole_batch=program.whole_batch,
        stop_is_last=program.stop_is_last,
        result=str(result),
        folder=str(folder),
        began_t=time.time(),
    )
    work.write(folder / "work.json")
    load = os.getloadavg()[0]
    with log.open("wb") as file:
        subprocess.run(
            [sys.executable, str(ROOT / "bench" / program.script), str(folder / "work.json")],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(threads) | {"FT_MAGIC_BENCH_WITHOUT": ",".join(program.without)},
            cwd=folder,
            timeout=LIMIT_S,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, _cores(threads)),
        )
    if not result.exists():
        raise SystemExit(f"{name} failed:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
    return {"program": name, "threads": threads, "round": turn, "load": load} | json.loads(result.read_text())


@contextmanager
def beside(asked: bool) -> Iterator[None]:
    """Keep one core busy meanwhile, as a notebook's kernel does."""
    if not asked:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def rates(threads: int) -> dict[str, float]:
    """Return what matrix products of the demo model's shapes reach on so many cores, in GFLOP/s, by library."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "matmul_rates.py")],
        env=_environment(threads),
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, _cores(threads)),
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _environment(threads: int) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
    # A cache of its own: a training that goes on elsewhere must not make this one wait for the device.
    own = {"OMP_NUM_THREADS": str(threads), "FT_MAGIC_CACHE": str(OUT / "cache"), "PYTHONPATH": str(ROOT)}
    return kept | _EVERYWHERE | own


def _cores(threads: int) -> set[int]:
    return set(sorted(os.sched_getaffinity(0))[:threads])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps; the first is not counted")
    parser.add_argument("--batch", type=int, default=2, help="examples a step")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs")
    parser.add_argument("--threads", type=int, nargs="+", default=usual_threads(), help="one table for each")
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=USUAL)
    parser.add_argument(
        "--shares", action="store_true", help="instead: ft_magic with each way to save time switched off"
    )
    parser.add_argument("--beside", action="store_true", help="with one core kept busy, as by a kernel")
    parser.add_argument("--model", default="demo", help="anything ft_magic takes as a model")
    return parser.parse_args()


def usual_threads() -> list[int]:
    """Return one pinned thread, whose figures are steady, and every core, which is what users get."""
    return sorted({1, len(os.sched_getaffinity(0))})


def _weights(work: Work) -> dict[str, int]:
    """Return the weights a labelled token passes, of the output layer and of all else."""
    facts = models.facts(Path(work.model))
    head = facts.vocab_size * facts.hidden_size
    return {"head": head, "body": (facts.parameters or 0) - head * (1 if facts.tied_embeddings else 2)}


def _data() -> str:
    if given := os.environ.get("FT_MAGIC_BENCH_DATA"):
        return str(Path(given).resolve())
    beside = sorted(ROOT.parent.glob("*/data/alpaca_en_demo.json"))
    return str(beside[0] if beside else samples.path("triage"))


def _machine() -> dict[str, Any]:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(
        (line.split(":")[1].strip() for line in described if line.startswith("model name")), "unknown"
    )
    packages = ("torch", "transformers", "trl", "peft", "unsloth", "ft-magic")
    versions = {package: metadata.version(package) for package in packages}
    return {"processor": name, "cores": len(os.sched_getaffinity(0)), "versions": versions}


def _line(run: dict[str, Any]) -> str:
    steps = " ".join(f"{seconds:.2f}" for seconds in run["step_s"])
    head = f"{run['program']}, {run['threads']} thread(s), round {run['round'] + 1}, load {run['load']:.1f}"
    return f"{head}: steps {steps} s; first loss {run['losses'][0]:.4f}"


if __name__ == "__main__":
    main()
