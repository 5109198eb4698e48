"""The run folder: what two processes share about one training, and how each knows the other is alive.

spec.yaml  plan.json  run.json  control.json  events.jsonl  log.txt
data/  checkpoints/  adapter/ or model/  merged/  gguf/  certificate.json  report.html
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic import atomic
from ft_magic.errors import RunError

ACTIONS = ("stop", "save", "pause", "resume", "sample")
ENDED = ("stopped", "failed", "finished")


@dataclass(frozen=True)
class RunFolder:
    """Paths and shared state of one run."""

    path: Path

    @property
    def spec(self) -> Path:
        """What was asked, as YAML."""
        return self.path / "spec.yaml"

    @property
    def plan(self) -> Path:
        """What was decided, as JSON."""
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        """What happened, one JSON line each."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """Everything the worker printed."""
        return self.path / "log.txt"

    @property
    def train_rows(self) -> Path:
        """Normalised rows trained on."""
        return self.path / "data" / "train.jsonl"

    @property
    def heldout_rows(self) -> Path:
        """Normalised rows held out."""
        return self.path / "data" / "heldout.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of complete checkpoints."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter, for adapter updates."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The trained model, for full updates."""
        return self.path / "model"

    @property
    def merged(self) -> Path:
        """The merged model, once made."""
        return self.path / "merged"

    @property
    def gguf(self) -> Path:
        """Folder of GGUF files, once made."""
        return self.path / "gguf"

    @property
    def certificate(self) -> Path:
        """The proof that all forms of the result agree, once made."""
        return self.path / "certificate.json"

    def state(self) -> Mapping[str, Any]:
        """Return ``run.json``: pid, status, versions, detached.

        Raises:
            RunError: the folder holds no run.
        """
        try:
            raw = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path} is no run folder: {error}.", "List the runs with %ft runs."
            ) from error
        return dict(raw)

    def update_state(self, **fields: Any) -> None:
        """Change fields of ``run.json``; the rest stays. Kernel and worker take turns by a file lock."""
        path = self.path / "run.json"
        with (self.path / "run.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            atomic.write_json(path, before | fields)

    def status(self) -> str:
        """Return the status; a worker that is gone without a word counts as ``failed``."""
        status = str(self.state().get("status", "planned"))
        if status in ENDED or (status == "planned" and not self.state().get("pid")):
            return status
        return status if self.worker_alive() else "failed"

    def latest_checkpoint(self) -> Path | None:
        """Return the complete checkpoint with the highest step, or None."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=checkpoint_step)
        return found[-1] if found else None

    # -- liveness: the worker holds a file lock from before its first instruction until its process is gone

    def hold(self) -> int:
        """Lock the run for a worker and return the file descriptor that holds it.

        Raises:
            RunError: a worker already holds it.
        """
        descriptor = os.open(self.path / "worker.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise RunError(
                f"run {self.path.name} is already training in process {self.state().get('pid')}.",
                f"Follow it with %ft attach {self.path.name}, or stop it with %ft stop {self.path.name}.",
            ) from error
        return descriptor

    def worker_alive(self) -> bool:
        """Return whether a worker process holds this run."""
        try:
            descriptor = self.hold()
        except RunError:
            return True
        os.close(descriptor)
        return False

    # -- followers: while one of them lives, a run that is not detached goes on

    def beat(self) -> None:
        """Note that this process follows the run."""
        folder = self.path / "followers"
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).touch()

    def followers_gone(self) -> bool:
        """Return whether there were followers and every one of their processes is gone."""
        pids = [int(file.name) for file in (self.path / "followers").glob("*") if file.name.isdigit()]
        return bool(pids) and not any(process_alive(pid) for pid in pids)

    # -- control: any process asks by writing control.json; the worker answers each request once

    def ask(self, action: str) -> None:
        """Ask the worker for one of ``ACTIONS``."""
        if action not in ACTIONS:
            raise ValueError(f"unknown action {action!r}; known: {', '.join(ACTIONS)}")
        atomic.write_json(self.path / "control.json", {"action": action, "t": time.time()})

    def asked(self) -> tuple[str, float] | None:
        """Return the last request as (action, time of the file), or None.

        Both ``{"action": "stop"}`` and ``{"stop": true}`` are understood.
        """
        path = self.path / "control.json"
        try:
            raw, changed = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
        except (OSError, ValueError):
            return None
        if not isinstance(raw, dict):
            return None
        action = raw.get("action") or next((name for name in ACTIONS if raw.get(name)), None)
        return (str(action), changed) if action in ACTIONS else None


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step of a folder named ``checkpoint-STEP``."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def process_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    # The state letter follows the command in parentheses; Z is a zombie.
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
