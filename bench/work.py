"""The work every program does, in one file each of them reads, and its rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Work:
    """One training, given to each program alike.

    Attributes:
        model: folder of the model.
        data: file of instruction, input, output records (a JSON list, or JSON lines).
        steps: optimizer steps.
        batch_examples: examples a step, no accumulation.
        rank: of the LoRA matrices on every linear layer but the output head; alpha is twice the rank.
        learning_rate: first learning rate; it falls linearly to zero, without warmup.
        max_length_tokens: longer rows are cut (TRL's default).
        seed: of LoRA's first weights and of the order of rows.
        checkpointing: activations are computed again in the backward pass; None = the program's own choice.
        whole_batch: all examples of a step go through the model together; False = the plan's own choice.
        stop_is_last: labels end with the stop token, not with the newline the template writes after it.
        result: file the measurements are written to.
        folder: where the program may write.
        began_t: Unix time at which the program was started.
    """

    model: str
    data: str
    steps: int
    batch_examples: int
    rank: int = 16
    learning_rate: float = 2e-4
    max_length_tokens: int = 1024
    seed: int = 42
    checkpointing: bool | None = None
    stop_is_last: bool = False
    whole_batch: bool = True
    result: str = ""
    folder: str = ""
    began_t: float = 0.0

    def write(self, path: Path) -> None:
        """Write the work as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: str) -> Work:
        """Read what ``write`` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def conversations(work: Work) -> list[dict]:
    """Return the records as TRL's conversational prompts and completions."""
    text = Path(work.data).read_text(encoding="utf-8")
    lines = work.data.endswith(".jsonl")
    records = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    return [
        {
            "prompt": [{"role": "user", "content": _question(record)}],
            "completion": [{"role": "assistant", "content": record["output"]}],
        }
        for record in records
    ]


def _question(record: dict) -> str:
    return record["instruction"] + ("\n\n" + record["input"] if record.get("input") else "")
