"""What this machine offers: cores, memory, accelerators, a compiler, and what it is really fast at.

Device and precision are chosen once, from here, and passed down.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idiolect.errors import UserError

PROC = Path("/proc")
SYSFS = Path("/sys")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of these settings (malloc.h)."""
MADV_HUGEPAGE = 14
"""Linux's number of this advice (mman.h)."""
RACE_SECONDS = 0.05
"""How long each precision multiplies matrices in `race`."""


def cores() -> int:
    """Physical cores this process may use: affinity and the control group's quota count, hyper-threads do not."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_read(SYSFS / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in allowed}
    return max(1, math.ceil(min(len(siblings), _cpu_quota())))


def threads() -> int:
    """CPU threads to compute with: a core each, unless OMP_NUM_THREADS says otherwise, as everywhere else."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cores()


def _cpu_quota() -> float:
    """Cores' worth of time that the control groups grant; infinity without a limit."""
    shares = [math.inf]
    for group in _control_groups():
        quota, _, period = (_read(group / "cpu.max") or "max").partition(" ")
        if quota == "max":  # version 1 has two files instead
            quota, period = _read(group / "cpu.cfs_quota_us") or "-1", _read(group / "cpu.cfs_period_us") or ""
        if period and int(quota) > 0:
            shares.append(int(quota) / int(period))
    return min(shares)


def memory_available(device: str = "cpu") -> int:
    """Bytes this process may still take on a device.

    Of the host the machine's, its control groups' and its own limit, whichever is least; of a CUDA device what is free.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = {line.split(":")[0]: line.split()[1] for line in (_read(PROC / "meminfo") or "").splitlines()}
    if "MemAvailable" in meminfo:
        rooms = [int(meminfo["MemAvailable"]) * 1024]
    else:
        rooms = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _control_groups():
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes") or "max"
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes") or "0"
        if limit != "max":
            rooms.append(int(limit) - int(used) + _file_cache(group))
    limit_, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_ != resource.RLIM_INFINITY:
        taken = int((_read(PROC / "self/statm") or "0").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        rooms.append(limit_ - taken)
    return max(0, min(rooms))


def _file_cache(group: Path) -> int:
    """Bytes of a control group's usage that the kernel gives back when asked."""
    statistics = dict(line.split() for line in (_read(group / "memory.stat") or "").splitlines())
    return int(statistics.get("inactive_file", 0))


def _control_groups() -> list[Path]:
    """The folders of this process's control groups with their parents, version 2 or 1."""
    folders: list[Path] = []
    for line in (_read(PROC / "self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and not {"cpu", "memory"} & set(controllers.split(",")):
            continue
        root = SYSFS / "fs/cgroup" / controllers
        folder = root / path.lstrip("/")
        folders += [root, *(parent for parent in (folder, *folder.parents) if parent.is_relative_to(root))]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # another kernel, another version of control groups: the file simply is not there
        return None


def resident_memory() -> int:
    """Bytes of the host's memory that this process holds now; 0 where the system does not tell."""
    return int((_read(PROC / "self/statm") or "0 0").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: str) -> int:
    """Most bytes this process has held: on an accelerator what torch allocated there, else resident memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    for line in (_read(PROC / "self/status") or "").splitlines():
        if line.startswith("VmHWM:"):  # unlike ru_maxrss, it does not begin with what the parent process held
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call on a CPU, or None."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler for a CPU, Triton besides for CUDA."""
    if device == "cpu":
        return compiler() is not None
    from torch.utils._triton import has_triton

    return device.startswith("cuda") and compiler() is not None and has_triton()


def choose(name: str) -> str:
    """The device to use for "auto", "cpu", "cuda" or "mps". Raises UserError for one this machine lacks."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, there in present.items() if there)
    if not present[name]:
        raise UserError(f"there is no {name} device that this torch can use", "use device=cpu, or install that torch")
    return name


def hardware(device: str) -> str:
    """The processor or accelerator by name, for records and for telling whether a run moved to another one."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{_cpu()[0]} ({vector_units()})"


def processor() -> str:
    """The CPU and its instruction sets, for what is compiled for it alone; torch-free."""
    return " ".join(_cpu())


def _cpu() -> tuple[str, str]:
    """The CPU's name and the instruction sets it says it has, as far as the system tells."""
    lines = (_read(PROC / "cpuinfo") or "").splitlines()
    facts = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    name = facts.get("model name", platform.processor() or platform.machine())
    return name, facts.get("flags") or facts.get("Features") or ""


def vector_units() -> str:
    """The widest vector instructions torch uses on this CPU."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


@functools.cache
def race(device: str, size: int | None = None) -> dict[str, float]:
    """Measured rates of a square matrix product, in GFLOP/s, for fp32, bf16 and fp16; on a CPU those of one core.

    Only a measurement tells: CPUs without bf16 units emulate it, some sixty times slower than fp32. Several cores would
    wait for one another wherever another program has one of them. Measured once in a process, so that all it decides
    is decided alike.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rates(device, size or (512 if device == "cpu" else 4096))
    finally:
        torch.set_num_threads(threads)


def _rates(device: str, size: int) -> dict[str, float]:
    import torch

    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a = torch.ones(size, size, dtype=dtype, device=device)
        out = torch.empty_like(a)
        a[:64, :64] @ a[:64, :64]  # a warm-up of the whole size would take long where a precision is emulated
        wait(device)
        best, end = math.inf, time.perf_counter() + RACE_SECONDS
        while best == math.inf or time.perf_counter() < end:
            began = time.perf_counter()
            torch.mm(a, a, out=out)
            wait(device)
            best = min(best, time.perf_counter() - began)  # whatever else runs here only ever slows a call down
        rates[name] = round(2 * size**3 / best / 1e9, 1)
    return rates


def wait(device: str) -> None:
    """Returns when an accelerator has done all it was asked to; a CPU always has."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def keep_memory() -> None:
    """Tells glibc to keep what is freed: a step of training asks for the same memory as the one before.

    Otherwise every large result is mapped anew, and its first touch of each page costs as much as computing it (a step
    of GPT-2 small, 1.3 times). Other systems are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def release_memory() -> None:
    """Tells glibc to give back what is free: a tokenizer learnt from much text leaves a gigabyte of it behind."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def huge_pages(address: int, size: int) -> None:
    """Asks Linux to back memory that nothing was written to yet by pages of 2 MB instead of 4 kB.

    Reading much of it in order is then up to 1.5 times as fast: the processor looks up, and begins to prefetch, a
    hundredth of the pages. Other systems are left as they are.
    """
    if sys.platform == "linux":
        page = os.sysconf("SC_PAGE_SIZE")
        begin = -(-address // page) * page
        whole = max(0, address + size - begin)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(whole), MADV_HUGEPAGE)


@contextlib.contextmanager
def pinned(threads: int, deterministic: bool) -> Iterator[None]:
    """Inside, torch uses `threads` CPU threads and, when asked, only deterministic algorithms; restored after."""
    import torch

    debugging: Any = torch.utils.deterministic  # torch's types do not know what lies in it
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        debugging.fill_uninitialized_memory,
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it before its first product
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    debugging.fill_uninitialized_memory = False  # a search for bugs that costs a pass over every result
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.backends.cudnn.benchmark = before[3]
        debugging.fill_uninitialized_memory = before[4]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a CPU (torch raises a plain RuntimeError) or an accelerator."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def doctor() -> dict[str, Any]:
    """What this machine offers and what a run would use, for the verb of that name."""
    import torch

    device = choose("auto")
    rates = race(device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "device": device,
        "hardware": hardware(device),
        "cores": cores(),
        "memory_available_bytes": memory_available(),
        "compiler": compiler(),
        "compile": can_compile(device),
        "gflops": rates,
        "precision": fastest(device, rates),
        "disk_free_bytes": shutil.disk_usage(".").free,
    }


def fastest(device: str, rates: dict[str, float]) -> str:
    """The precision to train in: bf16 where it beats fp32 by half, fp16 only on an accelerator without fast bf16."""
    if rates["bf16"] > 1.5 * rates["fp32"]:
        return "bf16"
    if device.startswith("cuda") and rates["fp16"] > 1.5 * rates["fp32"]:
        return "fp16"
    return "fp32"
