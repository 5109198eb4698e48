"""Hardware: what this machine offers, read without torch and within the limits of its container.

Figures are what this process may use: processor affinity, cgroup quotas (version 1 and 2) and
``CUDA_VISIBLE_DEVICES`` count, not what is built into the machine.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# First compute capability with bf16 arithmetic; older ones emulate it (CUDA C++ Programming Guide, 17.2).
BF16_CAPABILITY = (8, 0)
# A cold driver takes 1-3 s to answer; a hanging one must not hang the notebook.
SMI_TIMEOUT_S = 5.0
# cgroup v1 writes "no limit" as the largest page-aligned int64; anything near it is no limit.
_NO_LIMIT_BYTES = 2**60
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
_QUERIES = ("name,memory.total,memory.free,compute_cap", "name,memory.total,memory.free")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA device.

    Attributes:
        name: as the driver calls it.
        memory_bytes: built-in memory.
        compute_capability: (major, minor); (0, 0) where the driver is too old to tell.
        memory_free_bytes: free when asked.
    """

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    memory_free_bytes: int = 0

    @property
    def bf16(self) -> bool:
        """Whether bf16 is computed natively."""
        return self.compute_capability >= BF16_CAPABILITY


@dataclass(frozen=True)
class Hardware:
    """What this process may use.

    Attributes:
        cpu_cores: cores by affinity and cgroup quota, at least 1.
        cpu_name: as the processor calls itself.
        cpu_bf16: processor flags for bf16 arithmetic (``avx512_bf16``, ``amx_bf16``, on ARM ``bf16``).
        memory_total_bytes: memory, or the container's limit where that is smaller.
        memory_free_bytes: memory that can still be taken without swapping.
        gpus: visible NVIDIA devices in CUDA's order.
        python: version of this interpreter.
        system: ``Linux``, ``Darwin`` or ``Windows``.
        mkl_leaves_units: whether MKL, PyTorch's library of products, leaves the processor's widest units unused.
    """

    cpu_cores: int
    cpu_name: str
    cpu_bf16: tuple[str, ...]
    memory_total_bytes: int
    memory_free_bytes: int
    gpus: tuple[Gpu, ...] = ()
    python: str = ""
    system: str = ""
    mkl_leaves_units: bool = False

    @property
    def precision(self) -> str:
        """Number format every device computes in: fp32, bf16, or fp16 where a GPU would only emulate bf16."""
        if not self.gpus:
            return "fp32"
        return "bf16" if min(gpu.compute_capability for gpu in self.gpus) >= (8, 0) else "fp16"


def read(root: Path = Path("/")) -> Hardware:
    """Return what this machine offers now; takes a few milliseconds, with an NVIDIA driver up to 5 s.

    Args:
        root: where ``proc`` and ``sys`` are found; tests put recorded files there.
    """
    total_bytes, free_bytes = _memory(root)
    cpuinfo = _text(root / "proc/cpuinfo")
    return Hardware(
        cpu_cores=_cores(root),
        cpu_name=_cpu_name(cpuinfo),
        cpu_bf16=_bf16_flags(cpuinfo),
        mkl_leaves_units=mkl_leaves_units(root),
        memory_total_bytes=total_bytes,
        memory_free_bytes=free_bytes,
        gpus=_gpus(),
        python=platform.python_version(),
        system=platform.system(),
    )


def threads(hardware: Hardware) -> int:
    """Return how many threads to compute with: the usable cores, or ``OMP_NUM_THREADS`` where that is fewer."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(hardware.cpu_cores, int(asked)) if asked.isdigit() and int(asked) > 0 else hardware.cpu_cores


def disk_free_bytes(path: Path | str) -> int:
    """Return the free bytes of the disk that holds ``path``, or will hold it once it is made."""
    place = Path(path).expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def mkl_leaves_units(root: Path = Path("/")) -> bool:
    """Return whether this is an AMD processor with AVX-512: MKL takes that path on Intel's alone (measured, 2024.2).

    Args:
        root: where ``proc`` is found.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    return (
        _field_of(cpuinfo, "vendor_id") == "AuthenticAMD" and "avx512f" in _field_of(cpuinfo, "flags").split()
    )


def memory_kills(root: Path = Path("/")) -> dict[str, int]:
    """Return how many processes the kernel has ended for want of memory, where it counts them.

    ``container`` counts processes of this process's own cgroup, ``machine`` all of them (Linux 4.13 and later).

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    # Version 2 keeps the count in memory.events, version 1 in memory.oom_control.
    files = ("memory.events", "memory.oom_control")
    own = (_field(folder / name, "oom_kill") for folder in _cgroups(root, "memory") for name in files)
    found = {
        "container": next((count for count in own if count is not None), None),
        "machine": _field(root / "proc/vmstat", "oom_kill"),
    }
    return {where: count for where, count in found.items() if count is not None}


def boot_id(root: Path = Path("/")) -> str:
    """Return what names this start of this machine; empty where the system has no such name."""
    return _text(root / "proc/sys/kernel/random/boot_id").strip()


def _field(file: Path, name: str) -> int | None:
    """Return the number after a word at the start of a line; None without such a line."""
    fields = (line.split() for line in _text(file).splitlines())
    return next((int(words[1]) for words in fields if len(words) == 2 and words[0] == name), None)


def _text(file: Path) -> str:
    """Return a file's text; empty where it does not exist or may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cores(root: Path) -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quotas = [quota for folder in _cgroups(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def _quota(folder: Path) -> float | None:
    """Return the cores a cgroup may use, or None without a limit."""
    words = _text(folder / "cpu.max").split() or [
        _text(folder / "cpu.cfs_quota_us").strip(),
        _text(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return None  # "max 100000", or no such file
    return quota / period if quota > 0 and period > 0 else None


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders whose limits hold for this process: its own cgroup and every one above it.

    Inside a container the listed path is often the host's and missing; then the mount's top is its own.
    """
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = top / controller if controllers else top
        folder = mount / path.strip("/")
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def _memory(root: Path) -> tuple[int, int]:
    """Return (total, free) bytes of memory, the container's limits respected."""
    total_bytes, free_bytes = _machine_memory(root)
    for folder in _cgroups(root, "memory"):
        limit_bytes = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit_bytes is None or limit_bytes >= _NO_LIMIT_BYTES:
            continue
        used_bytes = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        # File cache counts as used, yet the kernel gives it back on demand (Linux, memory controller).
        used_bytes -= _stat(folder / "memory.stat", ("inactive_file", "total_inactive_file"))
        total_bytes = min(total_bytes, limit_bytes)
        free_bytes = min(free_bytes, max(0, limit_bytes - used_bytes))
    return total_bytes, free_bytes


def _machine_memory(root: Path) -> tuple[int, int]:
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    if "MemTotal" in sizes:
        return sizes["MemTotal"], sizes.get("MemAvailable", sizes.get("MemFree", 0))
    if find_spec("psutil") is not None:  # macOS and Windows; comes with ipykernel
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.total), int(memory.available)
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total_bytes, total_bytes
    return 0, 0


def _number(file: Path) -> int | None:
    """Return a file's one number; None for ``max`` or no such file."""
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _stat(file: Path, names: tuple[str, ...]) -> int:
    """Return the largest of the named fields, 0 without them; version 1 splits what version 2 joins."""
    fields = (line.split() for line in _text(file).splitlines())
    return max((int(words[1]) for words in fields if len(words) == 2 and words[0] in names), default=0)


def _cpu_name(cpuinfo: str) -> str:
    return _field_of(cpuinfo, "model name", "Model") or platform.processor() or platform.machine()


def _bf16_flags(cpuinfo: str) -> tuple[str, ...]:
    found = _field_of(cpuinfo, "flags", "Features").split()
    return tuple(flag for flag in _BF16_FLAGS if flag in found)


def _field_of(cpuinfo: str, *names: str) -> str:
    """Return the first processor's entry of one of these names; empty where there is none."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() in names), "")


def _gpus() -> tuple[Gpu, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    answers = (_ask_driver(query) for query in _QUERIES)
    found = [gpu for line in next(filter(None, answers), "").splitlines() if (gpu := _parse_gpu(line))]
    if visible is None:
        return tuple(found)
    wanted = [word.strip() for word in visible.split(",")]
    if not all(word.isdigit() for word in wanted):
        # UUIDs: the count is right, and the devices of one host are mostly equal.
        return tuple(found[: len(wanted)])
    return tuple(found[int(word)] for word in wanted if int(word) < len(found))


def _ask_driver(query: str) -> str:
    """Return nvidia-smi's lines; empty without a driver, or when it refuses the query or does not answer."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def _parse_gpu(line: str) -> Gpu | None:
    """Read ``Tesla T4, 15360, 15101, 7.5``; sizes are MiB. None for a line that is no device."""
    words = [word.strip() for word in line.split(",")]
    if len(words) < 3 or not words[1].isdigit():
        return None
    major, _, minor = (words[3] if len(words) > 3 else "").partition(".")
    capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
    free_bytes = int(words[2]) * 2**20 if words[2].isdigit() else 0
    return Gpu(words[0], int(words[1]) * 2**20, capability, free_bytes)
