"""One meter for every program: a trainer callback that notes times, memory, losses and the rows of each step."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import torch
from transformers import TrainerCallback


class Meter(TrainerCallback):
    """Writes one JSON file at the end of a training.

    A step lasts from the end of the step before to its own end, so that reading rows, logging and telling events
    count as well; the first step, which warms everything up, has no such beginning and is left out.
    """

    def __init__(self, result: str, began_t: float) -> None:
        self.result, self.began_t = Path(result), began_t
        self.ends: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self.rows: list[list[str]] = []
        self.sizes: list[dict] = []
        self.setup_s = 0.0
        self.setup_peak_bytes = 0

    def on_train_begin(self, *_, model=None, **__):
        self.setup_s = time.time() - self.began_t
        self.setup_peak_bytes = peak_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, model, _, inputs):
        """Note what a forward pass is given: a fingerprint of each row, and token counts."""
        if not model.training:
            return
        rows = list(_rows(inputs))
        self.rows.append([_fingerprint(ids, labels) for ids, labels in rows])
        self.sizes.append(
            {
                "padded_tokens": inputs["input_ids"].numel(),
                "tokens": sum(len(ids) for ids, _ in rows),
                "trained_tokens": int((inputs["labels"] != -100).sum()),
            }
        )

    def on_step_end(self, *_, **__):
        self.ends.append((time.perf_counter(), time.process_time()))

    def on_log(self, *_, logs=None, **__):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def on_train_end(self, *_, **__):
        pairs = list(zip(self.ends, self.ends[1:], strict=False))
        found = {
            "setup_s": self.setup_s,
            "step_s": [after[0] - before[0] for before, after in pairs],
            "cpu_s": [after[1] - before[1] for before, after in pairs],
            "losses": self.losses,
            "rows": self.rows,
            "sizes": self.sizes,
            "setup_peak_bytes": self.setup_peak_bytes,
            "training_peak_bytes": peak_bytes(),
            **self.more(),
        }
        half = self.result.with_suffix(".part")
        half.write_text(json.dumps(found), encoding="utf-8")
        os.replace(half, self.result)

    def more(self) -> dict:
        """Return what else a program has to say; nothing here."""
        return {}


def _rows(inputs):
    """Yield ids and labels of each row without padding, also where rows stand one after another in one line."""
    ids, labels = inputs["input_ids"].cpu(), inputs["labels"].cpu()
    mask, places = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is None and places is not None:
        starts = (places[0] == 0).nonzero().flatten().tolist()
        for begin, end in zip(starts, [*starts[1:], ids.shape[1]], strict=True):
            yield ids[0, begin:end], labels[0, begin:end]
        return
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu().bool()
    for row in range(len(ids)):
        yield ids[row][kept[row]], labels[row][kept[row]]


def _fingerprint(ids, labels) -> str:
    """Return a short name for a row; the first label is left out, as nothing predicts the first token."""
    text = ",".join(map(str, ids.tolist())) + "|" + ",".join(map(str, labels[1:].tolist()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def peak_bytes() -> int:
    """Return the largest resident memory of this process since the peak was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
