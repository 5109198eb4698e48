"""Doctor: what this machine can do, what is missing, and the one cell that fixes it.

Packages are looked up in their metadata, never imported; tokens are named, never read out.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from ft_magic import hardware, packages
from ft_magic.hardware import Hardware
from ft_magic.paths import cache_dir, runs_dir
from ft_magic.ui.show import BAD, GOOD, WARN, Html, Shown, badge_html, gib, pre_html, shown_table, text_table

# The whole check waits no longer than this for the hub; a name server may take longer to say no.
NETWORK_TIMEOUT_S = 1.8
# The demo by arithmetic: model while it is made 0.55 GiB, merged 0.26, three GGUF files 0.5; twice that.
DISK_WANTED_BYTES = 3 * 2**30
# An estimate for the demo: weights in fp32 0.5 GiB, logits and their gradients for 8 x 256 tokens 0.8,
# activations 1, libraries 0.7, and as much again for the kernel, a browser and the file cache.
MEMORY_WANTED_BYTES = 4 * 2**30
# PEFT 0.19 and later refuse to build an adapter beside an older torchao (peft/import_utils.py).
TORCHAO_VERSIONS = ">=0.16.0"
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")

_WIDEST = 90  # terminal columns a cell may take: a list of missing packages is longer than most cells
_COLOURS = {"ok": GOOD, "note": "#808080", "warning": WARN, "problem": BAD}
# What each extra is for, and how much it matters that it is missing.
_EXTRAS = {
    "": ("kernel side", "problem", "magics, specs and plans"),
    "train": ("training", "problem", "training in this environment"),
    "gguf": ("GGUF", "problem", "quantizing and chatting with the file"),
    "widgets": ("charts", "note", "plotly charts; without it charts are pictures"),
    "unsloth": ("Unsloth", "note", "faster training on NVIDIA GPUs; TRL trains without it"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what was looked at.
        state: ``ok``, ``note``, ``warning`` or ``problem``.
        detail: what was found.
        fix: what to do about it, or empty.
        cell: line of the fixing cell, or empty.
        extra: extra to install in the fixing cell, or empty.
    """

    topic: str
    state: str
    detail: str
    fix: str = ""
    cell: str = ""
    extra: str = ""


@dataclass(frozen=True, repr=False)
class Doctor:
    """Everything that was looked at; shows itself as a table with the fixing cell below."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What keeps something from working."""
        return tuple(finding for finding in self.findings if finding.state == "problem")

    @property
    def cell(self) -> str:
        """The one cell that fixes what can be fixed by installing; empty when nothing is missing."""
        lines = [finding.cell for finding in self.findings if finding.cell]
        extras = ",".join(finding.extra for finding in self.findings if finding.extra)
        if extras:
            lines.append(f'%pip install "{packages.install_source()}[{extras}]"')
        return "\n".join(dict.fromkeys(lines))

    def shown(self) -> Shown:
        """Return the table with the fixes and the cell."""
        title = "ft_magic doctor: " + (f"{len(self.problems)} problem(s)" if self.problems else "all well")
        header = ("what", "", "found", "what to do")
        rows = [(f.topic, f.state, f.detail, f.fix) for f in self.findings]
        marked = [(f.topic, badge_html(f.state, _COLOURS[f.state]), f.detail, f.fix) for f in self.findings]
        text = f"{title}\n{text_table(rows, header, widest=_WIDEST)}"
        shown = Shown(shown_table(marked, header, title=title).html, text)
        if not self.cell:
            return shown
        return shown + Shown(
            f"{_FIX_HTML}{pre_html(self.cell)}", f"This cell fixes what can be installed:\n{self.cell}"
        )

    def __repr__(self) -> str:
        return self.shown().text

    def _repr_html_(self) -> str:
        return self.shown().html


_FIX_HTML = Html("<div>This cell fixes what can be installed:</div>")


def check(found: Hardware | None = None) -> Doctor:
    """Look at this machine; takes up to two seconds, most of them waiting for the network.

    Args:
        found: the hardware, when it has been read already.
    """
    found = found or hardware.read()
    here = (_python(), _packages(), _torch(found), _machine(found), _places())
    return Doctor(tuple(chain.from_iterable((*here, _model(), _network(), _accounts()))))


def _python() -> Iterator[Finding]:
    from ft_magic.ui.environment import front_end

    yield Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("front end", "ok", front_end())


def _packages() -> Iterator[Finding]:
    for extra, (topic, severity, purpose) in _EXTRAS.items():
        needs = [need for need in packages.needs() if need.extra == extra]
        lacking = [need for need in needs if not need.met]
        if not lacking:
            yield Finding(topic, "ok", ", ".join(f"{need.name} {need.installed}" for need in needs))
            continue
        detail = ", ".join(_lack(need) for need in lacking)
        if not extra:
            # The kernel's own packages are never changed under a running kernel.
            yield Finding(topic, severity, detail, "Start a notebook in a newer environment or image.")
        elif extra == "unsloth":
            yield Finding(topic, severity, detail, purpose[0].upper() + purpose[1:] + ".")
        else:
            yield Finding(topic, severity, detail, f"Needed for {purpose}.", extra=extra)
    torchao = packages.version_of("torchao")
    if torchao and not packages.accepts(TORCHAO_VERSIONS, torchao):
        fix = "PEFT refuses to work beside it: remove it, then restart the kernel."
        yield Finding("torchao", "problem", f"{torchao} is too old", fix, cell="%pip uninstall -y torchao")


def _lack(need: packages.Need) -> str:
    if not need.installed:
        return f"{need.name} is missing"
    return f"{need.name} {need.installed} is not {need.versions}"


def _torch(found: Hardware) -> Iterator[Finding]:
    version = packages.version_of("torch")
    if not version:
        return
    cuda = _torch_cuda()
    build = f"CUDA {cuda}" if cuda else "CPU"
    if found.gpus and not cuda:
        fix = "This build does not see the GPU: install a CUDA build, then restart the kernel."
        cell = "%pip install --force-reinstall torch" if found.system == "Linux" else ""
        yield Finding("torch", "problem", f"{version}, {build} build", fix, cell=cell)
    else:
        yield Finding("torch", "ok", f"{version}, {build} build")


def _torch_cuda() -> str:
    """Return the CUDA version torch was built with, or an empty string; read from its files."""
    place = find_spec("torch")
    if place is None or place.origin is None:
        return ""
    file = Path(place.origin).with_name("version.py")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    match = re.search(r"^cuda(?:\s*:[^=]*)?\s*=\s*'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else ""


def _machine(found: Hardware) -> Iterator[Finding]:
    yield Finding("processor", "ok", f"{found.cpu_cores} cores, {found.cpu_name}")
    total, free = gib(found.memory_total_bytes), gib(found.memory_free_bytes)
    if found.memory_free_bytes < MEMORY_WANTED_BYTES:
        fix = "Close other notebooks, or use a smaller max_length and micro_batch_size."
        yield Finding("memory", "warning", f"{free} free of {total}", fix)
    else:
        yield Finding("memory", "ok", f"{free} free of {total}")
    for gpu in found.gpus:
        capability = ".".join(map(str, gpu.compute_capability))
        yield Finding("GPU", "ok", f"{gpu.name}, {gib(gpu.memory_bytes)}, compute capability {capability}")
    if not found.gpus:
        yield Finding("GPU", "note", "none; training runs on the processor")
    native = all(gpu.bf16 for gpu in found.gpus) if found.gpus else bool(found.cpu_bf16)
    detail = "computed natively" if native else "not computed natively; fp16 on GPUs, fp32 on processors"
    yield Finding("bf16", "ok" if native else "note", detail)


def _places() -> Iterator[Finding]:
    for topic, place, name in (("runs folder", runs_dir(), "RUNS"), ("cache", cache_dir(), "CACHE")):
        free_bytes = hardware.disk_free_bytes(place)
        detail = f"{gib(free_bytes)} free at {place}"
        if free_bytes < DISK_WANTED_BYTES:
            yield Finding(topic, "warning", detail, f"Free space, or set FT_MAGIC_{name} to a larger disk.")
        else:
            yield Finding(topic, "ok", detail)


def _model() -> Iterator[Finding]:
    from ft_magic.cached_folder import STAMP_NAME
    from ft_magic.models.demo import NAME

    folder = cache_dir() / "models" / NAME
    if (folder / STAMP_NAME).is_file():
        yield Finding("demo model", "ok", f"ready at {folder}")
    else:
        yield Finding("demo model", "note", "not fetched yet; the first use takes about half a minute")


def _network() -> Iterator[Finding]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        yield Finding("hub", "note", "switched off by HF_HUB_OFFLINE; 'demo' and folders work")
        return
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if _reachable(address):
        yield Finding("hub", "ok", f"{address} answers")
    else:
        fix = "Use model: demo or a local folder; hub ids need a network."
        yield Finding("hub", "warning", f"{address} cannot be reached", fix)


def _reachable(address: str) -> bool:
    """Tell whether a server answers a HEAD request in time; any answer counts, refusals too."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310  the address is the hub's
        try:
            urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_S).close()  # noqa: S310
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError):
            answers.append(False)

    # In a thread: no time limit of urllib's covers the name server.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_S)
    return bool(answers and answers[0])


def _accounts() -> Iterator[Finding]:
    present = [name for name in TOKENS if os.environ.get(name)]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    if Path(os.environ.get("HF_TOKEN_PATH") or home / "token").is_file():
        present.append("hub login")
    yield Finding(
        "tokens", "ok" if present else "note", ", ".join(present) or "none; gated models need HF_TOKEN"
    )
