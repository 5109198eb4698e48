"""Merge, convert, quantize and certify in one go. Runs in the warm process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from ft_magic.backends import rows
from ft_magic.evaluate import generate
from ft_magic.evaluate.heldout import prompt_text
from ft_magic.export import calibration
from ft_magic.export.certificate import certify
from ft_magic.export.convert import to_gguf
from ft_magic.export.merge import merge
from ft_magic.export.policy import find_file_type
from ft_magic.export.quantize import quantize
from ft_magic.planning.plans import Plan
from ft_magic.progress import Progress
from ft_magic.run_folder import RunFolder
from ft_magic.template import Tokenizer, prompt_ids, render, render_pair

SOURCE = "BF16"  # keeps the range of fp32; everything else is quantized from it
_EXACT = ("Q8_0",)  # close enough that an importance matrix changes nothing
_PLAIN = {"BF16": "bf16", "F16": "f16", "F32": "f32"}
_CERTIFIED_PROMPTS = 16
_PROBE_TOKENS = 256  # longest prompt the logits of merged and adapter are compared on

Tell = Callable[..., Any]


def merge_job(*, run: str, model: Mapping[str, Any], out: str, progress: Progress) -> dict[str, Any]:
    """Fold a run's adapter into its base; the job behind ``Run.merge``."""
    folder = RunFolder(Path(run))
    generate.forget()
    plan = Plan.read(folder.plan)
    adapter = Path(model["adapter"]) if model["adapter"] else None
    merged = merge(
        Path(model["base"]),
        adapter,
        Path(out),
        base_bits=model["bits"],
        probe_ids=[ids[:_PROBE_TOKENS] for ids in heldout_prompts(folder, plan, 4)],
        tokenizer_from=Path(plan.model_folder),
        progress=progress,
    )
    return asdict(merged) | {"path": str(merged.path)}


def heldout_prompts(folder: RunFolder, plan: Plan, most: int) -> list[list[int]]:
    """Return the prompts of the first held-out rows as token ids; of the training rows where none are held out."""
    tokenizer = Tokenizer.load(plan.model_folder)
    return [prompt_ids(tokenizer, row) for row in _heldout(folder, most)]


def _heldout(folder: RunFolder, most: int) -> list[dict[str, Any]]:
    source = folder.heldout_rows if folder.heldout_rows.exists() else folder.train_rows
    return list(islice(rows.read(source), most))


def export_job(
    *, run: str, model: Mapping[str, Any], merged: str, types: Sequence[str], out: str, progress: Progress
) -> dict[str, Any]:
    """Make GGUF files of a merged model and prove that all forms answer alike; the job behind ``Run.export``.

    Args:
        run: run folder.
        model: how to load the trained model.
        merged: folder of the merged model.
        types: GGUF file types.
        out: folder to write into.
        progress: told what is being done.

    Returns:
        ``files`` (path, file_type, bytes, seconds, fallbacks) and ``verdict`` of the certificate.
    """
    folder, target = RunFolder(Path(run)), Path(out)
    target.mkdir(parents=True, exist_ok=True)
    generate.forget()
    names = [find_file_type(name).name for name in types]
    plan = Plan.read(folder.plan)
    files = _make_files(folder, plan, Path(merged), target, names, progress)
    certificate = certify(
        Path(model["base"]),
        Path(model["adapter"]) if model["adapter"] else None,
        Path(merged),
        [Path(file["path"]) for file in files],
        heldout_prompts(folder, plan, _CERTIFIED_PROMPTS),
        out=folder.certificate,
        titles=[prompt_text(row) for row in _heldout(folder, _CERTIFIED_PROMPTS)],
        base_bits=model["bits"],
        progress=progress,
    )
    return {"files": files, "verdict": certificate.verdict}


def _make_files(
    folder: RunFolder, plan: Plan, merged: Path, target: Path, types: Sequence[str], progress: Progress
) -> list[dict[str, Any]]:
    name = folder.path.name
    source = target / f"{name}-{SOURCE}.gguf"
    to_gguf(
        merged,
        source,
        outtype="bf16",
        name=name,
        then=[t for t in types if t not in _PLAIN],
        progress=progress,
    )
    files = []
    matrix = None
    if any(kind not in _PLAIN and kind not in _EXACT for kind in types):
        matrix = calibration.importance(merged, _training_ids(folder, plan), progress)
    for kind in types:
        path = target / f"{name}-{kind}.gguf"
        if kind == SOURCE:
            files.append({"path": str(path), "file_type": kind, "bytes": path.stat().st_size})
        elif kind in _PLAIN:
            to_gguf(merged, path, outtype=_PLAIN[kind], name=name, progress=progress)
            files.append({"path": str(path), "file_type": kind, "bytes": path.stat().st_size})
        else:
            made = quantize(source, path, kind, imatrix=None if kind in _EXACT else matrix, progress=progress)
            files.append(
                {
                    "path": str(path),
                    "file_type": made.file_type,
                    "bytes": made.bytes,
                    "seconds": round(made.seconds, 1),
                    "fallbacks": made.fallbacks,
                    "tensor_types": dict(made.tensor_types),
                }
            )
    if SOURCE not in types:
        source.unlink()
    return files


def _training_ids(folder: RunFolder, plan: Plan) -> list[list[int]]:
    """Return training rows as token ids, enough to measure importance on."""
    tokenizer = Tokenizer.load(plan.model_folder)
    found: list[list[int]] = []
    for row in rows.read(folder.train_rows):
        shown = render_pair(tokenizer, row).chosen if "chosen" in row else render(tokenizer, row)
        found.append(list(shown.ids))
        if sum(map(len, found)) >= calibration.TOKENS:
            break
    return found
