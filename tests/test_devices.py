from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from idiolect import devices
from idiolect.errors import UserError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /proc and /sys, and this process allowed on four of its processors."""
    monkeypatch.setattr(devices, "PROC", tmp_path / "proc")
    monkeypatch.setattr(devices, "SYSFS", tmp_path / "sys")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    put(tmp_path, "proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cores_are_those_of_the_affinity(machine: Path) -> None:
    assert devices.cores() == 4


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("", 4), ("0", 4), ("many", 4)])
def test_threads_are_the_cores_unless_the_environment_says_otherwise(
    machine: Path, monkeypatch: pytest.MonkeyPatch, asked: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert devices.threads() == threads


def test_hyper_threads_of_one_core_count_once(machine: Path) -> None:
    for cpu in range(8):
        put(machine, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 2},{cpu % 2 + 2}\n")
    assert devices.cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1)])
def test_the_quota_of_control_groups_version_2_counts(machine: Path, quota: str, cores: int) -> None:
    put(machine, "proc/self/cgroup", "0::/user/job\n")
    put(machine, "sys/fs/cgroup/user/cpu.max", quota + "\n")  # set on the parent
    put(machine, "sys/fs/cgroup/user/job/cpu.max", "max 100000\n")
    assert devices.cores() == cores


def test_the_quota_of_control_groups_version_1_counts(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "4:memory:/job\n3:cpu,cpuacct:/job\n2:pids:/job\n")
    put(machine, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n")
    put(machine, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    assert devices.cores() == 2


def test_memory_is_the_machines_without_limits(machine: Path) -> None:
    assert devices.memory_available() == 8_000_000 * 1024


def test_the_memory_limit_of_version_2_counts_less_what_is_used_and_not_mere_cache(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/job\n")
    put(machine, "sys/fs/cgroup/job/memory.max", "1000000000\n")
    put(machine, "sys/fs/cgroup/job/memory.current", "300000000\n")
    put(machine, "sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 200000000\n")
    assert devices.memory_available() == 900_000_000


def test_the_memory_limit_of_version_1_counts(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "4:memory:/job\n")
    put(machine, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000000\n")
    put(machine, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "500000000\n")
    assert devices.memory_available() == 1_500_000_000


def test_the_limit_of_the_process_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.resource, "getrlimit", lambda which: (10**9, 10**9))
    put(machine, "proc/self/statm", "1000 500 100\n")
    assert devices.memory_available() == 10**9 - 1000 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to compare with")
def test_peak_memory_is_the_kernels_high_water_mark() -> None:
    torch.ones(10_000_000).sum()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert devices.peak_memory("cpu") == pytest.approx(int(status["VmHWM"].split()[0]) * 1024, rel=0.02)


def test_choose_takes_what_is_there_and_refuses_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, want in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert devices.choose("auto") == want
    assert devices.choose("cpu") == "cpu"
    with pytest.raises(UserError, match="no mps device"):
        devices.choose("mps")


def test_the_compiler_is_the_one_named_else_the_first_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "my-c++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o700)
    monkeypatch.setenv("CXX", str(own))
    assert devices.compiler() == str(own)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.compiler() is None
    assert not devices.can_compile("cpu")


def test_the_race_measures_three_precisions() -> None:
    rates = devices.race("cpu", size=64)
    assert set(rates) == {"fp32", "bf16", "fp16"}
    assert all(0 < rate < 1e6 for rate in rates.values())


@pytest.mark.parametrize(
    ("device", "fp32", "bf16", "fp16", "want"),
    [
        ("cpu", 60, 1, 1, "fp32"),
        ("cpu", 343, 3040, 900, "bf16"),
        ("cpu", 100, 120, 900, "fp32"),
        ("cuda", 8000, 300, 60000, "fp16"),
        ("cuda", 50000, 700000, 700000, "bf16"),
    ],
)
def test_the_fastest_precision(device: str, fp32: float, bf16: float, fp16: float, want: str) -> None:
    assert devices.fastest(device, {"fp32": fp32, "bf16": bf16, "fp16": fp16}) == want


def test_pinned_restores_even_after_an_error() -> None:
    def now() -> tuple[int, bool]:
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def fail_inside(threads: int) -> None:
        with devices.pinned(threads, deterministic=True):
            assert now() == (threads, True)
            raise KeyError

    before = now()
    with pytest.raises(KeyError):
        fail_inside(before[0] + 1)
    assert now() == before


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, want: bool) -> None:
    assert devices.is_out_of_memory(error) == want


def test_torchs_own_refusal_on_a_cpu_is_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert devices.is_out_of_memory(caught.value)


def test_doctor_is_one_json_object_of_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "race", lambda device: {"fp32": 60.0, "bf16": 1.0, "fp16": 1.0})
    facts = json.loads(json.dumps(devices.doctor()))
    assert facts["precision"] == "fp32"
    assert facts["cores"] == devices.cores() <= (os.cpu_count() or 1)
    assert facts["torch"] == torch.__version__
    assert facts["memory_available_bytes"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="the advice is Linux's")
def test_huge_pages_are_asked_for() -> None:
    memory = mmap.mmap(-1, 8 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    devices.huge_pages(address + 1, 100)  # not a whole page

    def flags() -> list[str]:
        found = re.search(rf"(?m)^{address:x}-[^V]*VmFlags: (.*)$", Path("/proc/self/smaps").read_text())
        return found[1].split() if found else []

    before = flags()
    devices.huge_pages(address, len(memory))
    assert "hg" in flags() and "hg" not in before
