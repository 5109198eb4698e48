"""A pipeline's folder: the rows its stages made, and which run each stage became, for going on later."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic import atomic
from ft_magic.errors import RunError
from ft_magic.paths import runs_dir

_FILE = "pipeline.json"


@dataclass(frozen=True)
class Record:
    """Paths and state of one pipeline: ``ft_runs/NAME/`` with ``pipeline.json``, answers, verdicts and pairs.

    A stage is found again by the digest of everything it depends on: settings, rows, and the stages before.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the pipeline: its runs are called NAME-stage."""
        return self.path.name

    def rows_file(self, stage: str, digest: str) -> Path:
        """Return where a stage's rows are kept; other settings get another file, nothing is overwritten."""
        return self.path / f"{stage}-{digest[:8]}.jsonl"

    def run_of(self, stage: str, digest: str) -> Path | None:
        """Return the folder of the run this stage became with exactly these inputs, or None."""
        entry = self._stages().get(stage, {})
        folder = runs_dir() / entry.get("run", "")
        return folder if entry.get("digest") == digest and (folder / "run.json").is_file() else None

    def begin(self, stage: str, digest: str, *, number: bool) -> str:
        """Choose the name of a stage's run and keep it before the run starts.

        Args:
            stage: its name.
            digest: of everything it depends on.
            number: count on where the name is taken, instead of refusing.

        Raises:
            RunError: the name is taken.
        """
        first = name = f"{self.name}-{stage}"
        count = 2
        while (runs_dir() / name).exists():
            if not number:
                raise RunError(
                    f"run '{first}' exists already and was made with other settings or data.",
                    "Choose another name, or write if_exists: new to number it.",
                )
            name, count = f"{first}-{count}", count + 1
        self.note(stage, digest, run=name)
        return name

    def note(self, stage: str, digest: str, **fields: Any) -> None:
        """Keep what a stage became."""
        entries = self._stages() | {stage: {"digest": digest, **fields}}
        atomic.write_json(self.path / _FILE, {"v": 1, "name": self.name, "stages": entries})

    def _stages(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(json.loads((self.path / _FILE).read_text(encoding="utf-8"))["stages"])
        except FileNotFoundError:
            return {}


def open_record(name: str | None, method: str, model: str) -> Record:
    """Return the folder of a pipeline, made where it does not exist.

    Args:
        name: as the user wrote it; None for one from date, pipeline and model.
        method: the pipeline's name.
        model: the model's, for a name of its own.

    Raises:
        RunError: a run has this name.
    """
    if name is None:
        short = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(model).name)[:30]
        name = f"{time.strftime('%Y%m%d-%H%M')}-{method}-{short}-{secrets.token_hex(2)}"
    path = runs_dir() / name
    if (path / "run.json").exists():
        raise RunError(f"'{name}' is a run, so it cannot be a pipeline.", "Choose another name.")
    path.mkdir(parents=True, exist_ok=True)
    return Record(path)


def digest_of(**inputs: Any) -> str:
    """Return the SHA-256 of a stage's inputs: equal inputs, equal digests."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
