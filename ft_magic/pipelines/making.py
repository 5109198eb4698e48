"""Rows that a pipeline makes: two answers to each prompt, and the judge's preferences between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_magic import atomic, hardware, jobs, models
from ft_magic.axes import find_update
from ft_magic.data import Data
from ft_magic.data.reading.files import read_json_lines
from ft_magic.judging import judgement, settings
from ft_magic.judging.judgement import Contest
from ft_magic.paths import runs_dir
from ft_magic.run import Run
from ft_magic.ui.live import ProgressLine

# The model's own distribution, and answers as long as TRL's GRPOConfig allows by default.
_TEMPERATURE, _LONGEST_TOKENS = 1.0, 256
_CHUNK = 16  # prompts answered between two writes: little is lost when the process dies


def model_reference(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the warm process loads a model: a run's trained one, or a plain one as the update keeps it.

    Args:
        model: a run, its name, or whatever ``models.resolve`` takes.
        given: the spec's keys; ``update`` and ``precision`` are read.
    """
    if isinstance(model, str) and (runs_dir() / model / "run.json").is_file():
        model = Run(runs_dir() / model)
    if isinstance(model, Run):
        return model.model_reference()
    bits = find_update(str(given.get("update", "lora"))).bits
    return {
        "base": str(models.resolve(str(model))),
        "adapter": None,
        "bits": bits,
        "precision": _precision(given),
    }


def _precision(given: Mapping[str, Any]) -> str:
    if given.get("precision", "auto") != "auto":
        return str(given["precision"])
    return hardware.read().precision


def make_answers(model: Mapping[str, Any], data: Data, asked: Mapping[str, Any], file: Path) -> list[Contest]:
    """Answer every prompt twice and keep the answers; those a file holds already are not made again.

    Args:
        model: see ``model_reference``.
        data: prompt rows.
        asked: ``temperature`` and ``max_completion_length`` (tokens), where given.
        file: gets one line a prompt, written every few prompts.
    """
    prompts = [row["prompt"] for row in data]
    with ProgressLine("Answering each prompt twice") as progress:
        for start in range(len(answered(file)), len(prompts), _CHUNK):
            progress("answering", start, len(prompts))
            _append(file, _answer_twice(model, prompts[start : start + _CHUNK], asked))
    return answered(file)


def answered(file: Path) -> list[Contest]:
    """Return the prompts with their answers that a file holds; none where there is no file."""
    made = read_json_lines(file).records if file.exists() else []
    return [Contest(row["prompt"], row["a"], row["b"]) for row in made]


def _answer_twice(
    model: Mapping[str, Any], prompts: Sequence[Any], asked: Mapping[str, Any]
) -> list[dict[str, Any]]:
    twice = [prompt for prompt in prompts for _ in range(2)]
    arguments = {
        "model": dict(model),
        "prompts": twice,
        "max_new_tokens": int(asked.get("max_completion_length") or _LONGEST_TOKENS),
        "temperature": float(asked.get("temperature") or _TEMPERATURE),
        "base": False,
    }
    texts = jobs.call("generate", arguments)
    return [{"prompt": prompt, "a": texts[2 * i], "b": texts[2 * i + 1]} for i, prompt in enumerate(prompts)]


def _append(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows in one write of a new file: a killed process leaves the old one whole."""
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    new = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic.write_text(file, old + new)


def make_pairs(
    contests: Sequence[Contest], asked: Mapping[str, Any], file: Path
) -> tuple[Data, judgement.Judgement]:
    """Judge answers and keep the decided contests as preference rows.

    Args:
        contests: prompts with two answers each.
        asked: ``judge``, as in the spec.
        file: gets the rows; the judge's replies stand beside it in ``verdicts.jsonl``.

    Raises:
        DataError: the judge decided none.
        RunError: its endpoint cannot be reached; the replies so far are kept.
    """
    with ProgressLine("Judging") as progress:
        who = settings.read(asked["judge"], progress=progress)
        found = judgement.decide(who, contests, file.parent, progress)
    pairs = replace(found.pairs(), name=file.stem, source=str(file))
    pairs.to_jsonl(file)
    return pairs, found
