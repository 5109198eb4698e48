"""What the kernel sees of merging and exporting: files, their proof, and the lines that run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic import jobs
from ft_magic.errors import ExportError
from ft_magic.export.certificate import Certificate
from ft_magic.export.ollama import RunLines, run_lines, write_modelfile
from ft_magic.export.refusals import check_plan
from ft_magic.paths import from_here
from ft_magic.template import Tokenizer
from ft_magic.ui.live import ProgressLine
from ft_magic.ui.show import Shown, count, shown_table

if TYPE_CHECKING:
    from ft_magic.run import Run

DEFAULT_TYPES = ("Q8_0", "Q4_K_M")
_CHAT_CONTEXT_TOKENS = 4096  # written into the Modelfile unless the model has less


@dataclass(frozen=True)
class ExportedFile:
    """One GGUF file: where it is, its type, its size, and tensors that needed another type than asked."""

    path: Path
    file_type: str
    bytes: int
    fallbacks: int = 0


@dataclass(frozen=True)
class Export:
    """Everything an export made.

    Attributes:
        merged: folder of the merged 16-bit model.
        files: GGUF files, in the order asked.
        modelfile: Modelfile for Ollama, or None.
        certificate: the proof that adapter, merged model and files agree, or None without GGUF files.
        lines: shell lines that run the first file, or None.
    """

    merged: Path
    files: tuple[ExportedFile, ...]
    modelfile: Path | None
    certificate: Certificate | None
    lines: RunLines | None

    def shown(self) -> Shown:
        """Return files, certificate and run lines as tables."""
        rows: list[list[object]] = [["merged", from_here(self.merged), ""]]
        rows += [[f.file_type, from_here(f.path), f"{f.bytes / 1e6:.0f} MB"] for f in self.files]
        if self.modelfile:
            rows.append(["Ollama", from_here(self.modelfile), ""])
        notes = [
            f"{f.file_type}: {count(f.fallbacks)} tensors have rows that are no multiple of 256, so they are kept "
            "at a higher precision."
            for f in self.files
            if f.fallbacks
        ]
        shown = shown_table(rows, ("form", "where", "size"), notes=notes)
        if self.certificate is not None:
            shown += Shown(self.certificate._repr_html_(), repr(self.certificate))
        if self.lines is not None:
            lines = [["llama.cpp", self.lines.llama_cpp], ["server", self.lines.llama_cpp_server]]
            lines += [["Ollama", self.lines.ollama]] if self.modelfile else []
            shown += shown_table([*lines, ["vLLM", self.lines.vllm]], ("run it with", ""))
        return shown

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shown = self.shown()
        return {"text/html": shown.html, "text/plain": shown.text}

    def __repr__(self) -> str:
        return self.shown().text


def merge(run: Run, out: Path | None = None) -> Path:
    """Merge a run, once; the work behind ``Run.merge``."""
    check_plan(run.plan)
    target = (out or run.folder.merged).absolute()
    model = run.model_reference()
    if target.exists() and _newer(target, run):
        return target
    arguments = {"run": str(run.path), "model": model, "out": str(target)}
    with ProgressLine("Merging") as progress:
        made = jobs.call("merge", arguments, progress)
    run.emit(
        "merged",
        path=made["path"],
        bytes=made["bytes"],
        mean_kl=made["mean_kl"],
        dtype=made["dtype"],
        max_abs_logit_difference=made["max_abs_logit_difference"],
    )
    return target


def _newer(merged: Path, run: Run) -> bool:
    """Return whether a merged folder was made after the run's result."""
    result = run.folder.adapter if run.folder.adapter.exists() else run.folder.model
    return merged.stat().st_mtime >= result.stat().st_mtime


def export(run: Run, *, gguf: str | Sequence[str], ollama: bool, folder: Path | None) -> Export:
    """Export a run; the work behind ``Run.export``."""
    types = tuple(part.strip() for part in gguf.split(",")) if isinstance(gguf, str) else tuple(gguf)
    types = tuple(name for name in types if name) or (DEFAULT_TYPES if ollama else ())
    target = (folder or run.folder.gguf).absolute()
    merged = merge(run)
    if not types:
        return Export(merged, (), None, None, None)
    arguments = {
        "run": str(run.path),
        "model": run.model_reference(),
        "merged": str(merged),
        "types": list(types),
        "out": str(target),
    }
    with ProgressLine("Exporting") as progress:
        made = jobs.call("export", arguments, progress)
    files = tuple(
        ExportedFile(Path(f["path"]), f["file_type"], f["bytes"], f.get("fallbacks", 0))
        for f in made["files"]
    )
    for file in files:
        run.emit("quantized", path=str(file.path), type=file.file_type, bytes=file.bytes)
    certificate = Certificate.read(run.folder.certificate)
    run.emit("certified", path=str(run.folder.certificate), verdict=certificate.verdict)
    modelfile = _modelfile(run, files[0].path) if ollama else None
    run.report()
    return Export(
        merged,
        files,
        modelfile,
        certificate,
        run_lines(from_here(files[0].path), merged=from_here(merged), name=run.name),
    )


def _modelfile(run: Run, gguf: Path) -> Path:
    from ft_magic.models import facts

    tokenizer = Tokenizer.load(run.plan.model_folder)
    longest = facts(run.folder.merged).max_length_tokens or _CHAT_CONTEXT_TOKENS
    return write_modelfile(gguf, stops=tokenizer.stop_texts, num_ctx=min(longest, _CHAT_CONTEXT_TOKENS))


def find_gguf(run: Run, wanted: str | Path | None) -> Path:
    """Return a GGUF file of a run: by path, by type, or the smallest one; makes Q4_K_M when there is none.

    Raises:
        ExportError: no file of that type.
    """
    if wanted is not None and Path(wanted).suffix == ".gguf":
        return Path(wanted)
    files = sorted(run.folder.gguf.glob("*.gguf"), key=lambda file: file.stat().st_size)
    if wanted is None:
        return files[0] if files else run.export(gguf="q4_k_m").files[0].path
    fitting = [file for file in files if file.stem.lower().endswith(str(wanted).lower())]
    if fitting:
        return fitting[0]
    made = ", ".join(file.stem.removeprefix(f"{run.name}-") for file in files) or "none"
    raise ExportError(
        f"run {run.name} has no GGUF file of type {wanted}; there are: {made}.",
        f"Make it with %ft export {run.name} --gguf {wanted}.",
    )
