import subprocess
import sys

import pytest

from ft_magic import hardware
from ft_magic.hardware import Gpu

MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1024000 kB\nMemAvailable:    8192000 kB\n"
CPUINFO = (
    "processor\t: 0\nmodel name\t: Fast CPU 9000\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
)
KIB = 1024


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A recorded machine; returns a function that adds files to it."""
    monkeypatch.setattr(hardware.shutil, "which", lambda _: None)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(**files):
        for name, text in files.items():
            file = tmp_path / "proc" / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    write(meminfo=MEMINFO, cpuinfo=CPUINFO, self__cgroup="0::/\n")
    write.root = tmp_path
    return write


def cgroup(machine, **files):
    for name, text in files.items():
        file = machine.root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_without_limits_the_machine_itself_counts(machine):
    found = hardware.read(machine.root)
    assert found.cpu_cores == 8
    assert found.cpu_name == "Fast CPU 9000"
    assert found.cpu_bf16 == ("avx512_bf16", "amx_bf16")
    assert found.memory_total_bytes == 16384000 * KIB
    assert found.memory_free_bytes == 8192000 * KIB
    assert found.gpus == ()
    assert found.python == ".".join(map(str, sys.version_info[:3]))


def test_cgroup_v2_limits_are_respected(machine):
    cgroup(
        machine,
        memory_dot_max="4000000000\n",
        memory_dot_current="3000000000\n",
        memory_dot_stat="anon 1\ninactive_file 500000000\n",
        cpu_dot_max="150000 100000\n",
    )
    found = hardware.read(machine.root)
    assert found.memory_total_bytes == 4_000_000_000
    assert found.memory_free_bytes == 4_000_000_000 - (3_000_000_000 - 500_000_000)
    assert found.cpu_cores == 2  # 1.5 cores


def test_cgroup_v2_without_a_limit_says_max(machine):
    cgroup(machine, memory_dot_max="max\n", cpu_dot_max="max 100000\n")
    assert hardware.read(machine.root).cpu_cores == 8
    assert hardware.read(machine.root).memory_total_bytes == 16384000 * KIB


def test_a_limit_on_a_group_further_up_counts(machine):
    machine(self__cgroup="0::/user/job\n")
    cgroup(
        machine,
        user__job__memory_dot_max="max",
        user__memory_dot_max="2000000000",
        user__memory_dot_current="1",
    )
    assert hardware.read(machine.root).memory_total_bytes == 2_000_000_000


def test_cgroup_v1_limits_are_respected(machine):
    machine(self__cgroup="4:memory:/host/path\n2:cpu,cpuacct:/host/path\n0::/\n")
    cgroup(
        machine,
        memory__memory_dot_limit_in_bytes="1000000000",
        memory__memory_dot_usage_in_bytes="400000000",
        memory__memory_dot_stat="inactive_file 1\ntotal_inactive_file 100000000",
        cpu__cpu_dot_cfs_quota_us="300000",
        cpu__cpu_dot_cfs_period_us="100000",
    )
    found = hardware.read(machine.root)
    assert (found.memory_total_bytes, found.memory_free_bytes) == (1_000_000_000, 700_000_000)
    assert found.cpu_cores == 3


def test_cgroup_v1_without_a_limit_writes_a_huge_number(machine):
    machine(self__cgroup="4:memory:/\n2:cpu:/\n")
    cgroup(machine, memory__memory_dot_limit_in_bytes="9223372036854771712", cpu__cpu_dot_cfs_quota_us="-1")
    found = hardware.read(machine.root)
    assert found.memory_total_bytes == 16384000 * KIB
    assert found.cpu_cores == 8


def answer(monkeypatch, *answers):
    """Let nvidia-smi give these answers in turn: text, or an exception."""
    given = iter(answers)

    def run(command, **kwargs):
        assert kwargs["timeout"] <= 5
        said = next(given)
        if isinstance(said, Exception):
            raise said
        return subprocess.CompletedProcess(command, 0 if said else 1, said, "")

    monkeypatch.setattr(hardware.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


TWO_T4 = "Tesla T4, 15360, 15101, 7.5\nTesla T4, 15360, 15000, 7.5\n"


def test_gpus_are_read_from_the_driver(machine, monkeypatch):
    answer(monkeypatch, "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0\n")
    (gpu,) = hardware.read(machine.root).gpus
    assert gpu == Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, (9, 0), 81000 * 2**20)
    assert gpu.bf16


def test_a_t4_has_no_bf16(machine, monkeypatch):
    answer(monkeypatch, TWO_T4)
    assert [gpu.bf16 for gpu in hardware.read(machine.root).gpus] == [False, False]


def test_an_old_driver_without_compute_capability_still_lists_its_gpus(machine, monkeypatch):
    answer(monkeypatch, "", "Tesla K80, 11441, 11000\n")
    assert hardware.read(machine.root).gpus[0].compute_capability == (0, 0)


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("1", 1), ("0,1", 2), ("GPU-9f2c", 1)])
def test_only_visible_gpus_count(machine, monkeypatch, visible, count):
    answer(monkeypatch, TWO_T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(hardware.read(machine.root).gpus) == count


def test_a_driver_that_does_not_answer_counts_as_no_gpu(machine, monkeypatch):
    late = subprocess.TimeoutExpired("nvidia-smi", 5)
    answer(monkeypatch, late, late)
    assert hardware.read(machine.root).gpus == ()


def test_the_disk_of_a_folder_that_does_not_exist_yet_is_its_parents(tmp_path):
    free_bytes = hardware.disk_free_bytes(tmp_path / "not" / "yet")
    assert abs(free_bytes - hardware.disk_free_bytes(tmp_path)) < 2**30


def test_reading_the_hardware_imports_no_torch():
    code = "import sys, ft_magic.hardware as h; h.read(); print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


ZEN = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (ZEN, True),
        (ZEN.replace("avx512f avx512_bf16", ""), False),
        (ZEN.replace("AuthenticAMD", "GenuineIntel"), False),
        ("Processor : ARMv8\nFeatures : asimd\n", False),
        ("", False),
    ],
)
def test_only_amd_processors_with_avx512_have_units_that_mkl_leaves(machine, text, left):
    machine(cpuinfo=text)
    assert hardware.read(machine.root).mkl_leaves_units is left
