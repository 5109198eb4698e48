"""A merged Hugging Face folder to a GGUF file, by llama.cpp's own converter in a subprocess."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ft_magic.errors import ExportError, nearest
from ft_magic.export import preflight, tools
from ft_magic.export.tensor_types import TENSOR_TYPES
from ft_magic.progress import Progress, silent

OUTTYPES = ("bf16", "f16", "f32", "q8_0")
POLL_S = 0.3
# What the converter says when it fails, and what helps; the first that fits.
ADVICE: Sequence[tuple[str, str]] = (
    (
        r"tokenizer\.model",
        "Copy tokenizer.model from the base model: saving with transformers 5 does not write it.",
    ),
    (
        r"pre-tokenizer was not recognized",
        "The tokenizer differs from every known one: copy the base model's tokenizer files unchanged.",
    ),
    (r"is not supported|NotImplementedError", "Set FT_MAGIC_LLAMA_CPP to a newer llama.cpp checkout."),
    (
        r"No module named '([\w.]+)'",
        "Install what is missing: pip install sentencepiece protobuf transformers torch",
    ),
    (r"No space left|Errno 28", "Free some room, or write to another folder (on Kaggle /tmp has the most)."),
    (
        r"Can not map tensor|wrong shape|AssertionError",
        "The folder is not a plain model of its architecture: merge the adapter first, add no tokens.",
    ),
)


def to_gguf(
    folder: Path,
    out: Path,
    *,
    outtype: str = "bf16",
    name: str | None = None,
    chat: bool = True,
    then: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Convert a model folder to one GGUF file and return its path.

    bf16 is the type to quantize from: it keeps the range of f32, f16 does not.

    Args:
        folder: merged model: config, safetensors, the base's own tokenizer files.
        out: where to write; an existing file is replaced at the very end.
        outtype: ``bf16``, ``f16``, ``f32`` or ``q8_0``.
        name: name written into the file; the converter takes the folder's if not given.
        chat: whether the model must have a chat template; False for models trained on raw text.
        then: file types that will be quantized from it, so that the disk is checked for all of them.
        progress: told what is done; during conversion in bytes written.

    Raises:
        ExportError: a check failed (see ``preflight``), or the converter did.
    """
    _check_outtype(outtype)
    told = progress or silent
    script_folder = tools.converter(told)
    found = preflight.check(
        folder, script_folder, outtype=outtype, chat=chat, room=out.parent, then=then, progress=told
    )
    part = out.with_name(f".{out.stem}.{os.getpid()}.part.gguf")
    command = [sys.executable, str(script_folder / tools.SCRIPT), str(folder.absolute())]
    command += ["--outtype", outtype, "--outfile", str(part.absolute())]
    command += ["--model-name", name] if name else []
    kind = TENSOR_TYPES[outtype.upper()]
    try:
        _run(command, script_folder, part, found.parameters // kind.block_elements * kind.block_bytes, told)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return out


def _check_outtype(outtype: str) -> None:
    if outtype not in OUTTYPES:
        raise ExportError(
            f"the converter cannot write '{outtype}'.{nearest(outtype.lower(), OUTTYPES)}",
            f"Convert to one of {', '.join(OUTTYPES)}; other types are quantized from bf16.",
        )


def _run(
    command: Sequence[str], script_folder: Path, part: Path, expected_bytes: int, progress: Progress
) -> None:
    """Run the converter and wait; what it says is kept and shown when it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(script_folder),
        )
        try:
            while process.poll() is None:
                written = part.stat().st_size if part.exists() else 0
                progress("converting to GGUF", min(written, expected_bytes), expected_bytes)
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()  # no effect on an ended process; an interrupt must not leave it running
            process.wait()
        log.seek(0)
        said = log.read()
    if process.returncode != 0 or not part.is_file():
        raise _error(said, process.returncode)
    progress("converting to GGUF", expected_bytes, expected_bytes)


def _environment(script_folder: Path) -> dict[str, str]:
    """Return the converter's environment: its own ``gguf`` before the installed one, and no network."""
    environment = dict(os.environ)
    # A llama.cpp checkout keeps its gguf package in gguf-py; the PyPI package keeps it beside the script.
    library = script_folder / "gguf-py"
    paths = [str(library if library.is_dir() else script_folder)]
    if environment.get("PYTHONPATH"):
        paths.append(environment["PYTHONPATH"])
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["NO_LOCAL_GGUF"] = "1"  # the script would otherwise look for gguf-py below its own folder
    environment["HF_HUB_OFFLINE"] = environment["TRANSFORMERS_OFFLINE"] = "1"
    environment["OMP_WAIT_POLICY"] = (
        "PASSIVE"  # waiting threads must not spin: something else may be training
    )
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment


def _error(said: str, returncode: int) -> ExportError:
    """Return an error with the converter's last words and what helps."""
    if returncode < 0:
        words = f"it was ended by signal {-returncode}"
        advice = (
            "Signal 9 usually means that memory ran out: close other programs, or use a machine with more."
        )
        return ExportError(f"the converter did not finish: {words}.", advice)
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    shown = " | ".join(lines[-3:]) or "it said nothing"
    advice = next((help_ for pattern, help_ in ADVICE if re.search(pattern, "\n".join(lines[-20:]))), "")
    return ExportError(
        f"the converter failed (exit {returncode}): {shown}",
        advice or "Set FT_MAGIC_LLAMA_CPP to another llama.cpp checkout, or look at the lines above.",
    )
