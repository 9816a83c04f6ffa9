"""What this machine does at most, measured here and now: matrix products, memory traffic, matrix times vector.

Training is bounded by products, decoding by how fast weights are read; a speed means little without its share of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from idiolect import devices
from idiolect.train.precision import DTYPES

SHAPES = {
    "cpu": ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (3072, 384, 1536), (2048, 768, 3072)),
    "cuda": ((2048, 2048, 2048), (4096, 4096, 4096), (8192, 8192, 8192), (8192, 4096, 16384)),
    "mps": ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096)),
}
"""Products [n, k] by [k, m] whose best is the machine's rate; no one shape is best everywhere."""
SECONDS = 0.25
"""How long each thing is repeated …"""
CALLS = 3
"""… and how often at least; the best call counts, for whatever else runs here only ever slows one down."""
BYTES = 1 << 30
"""Size of the arrays that memory is measured with, above any cache; at most a sixteenth of the memory there is."""
MATRIX = (3072, 768)
"""A weight matrix, of which as many distinct ones as BYTES / 4 holds are multiplied by one vector."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one machine; rates a second."""

    device: str
    hardware: str
    threads: int
    torch: str
    matmul: Mapping[str, float]
    """Precision → operations of the best matrix product."""
    copy: float
    """Bytes copied, each read and each written counted."""
    read: float
    """Bytes read."""
    vector: Mapping[str, float]
    """Precision → bytes of weights in a product of matrix and vector as torch does it."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(device: str = "auto", threads: int | None = None) -> Limits:
    """Measures the machine, in about ten seconds. Precisions that it only emulates are measured too, and read low."""
    device, threads = devices.choose(device), threads or devices.threads()
    names = ("fp32", "bf16") if device == "cpu" else ("fp32", "bf16", "fp16")
    with devices.pinned(threads, deterministic=False), torch.no_grad():
        copy, read = memory_rates(device)
        return Limits(
            device,
            devices.hardware(device),
            threads,
            torch.__version__,
            {name: matmul_rate(device, name) for name in names},
            copy,
            read,
            {name: vector_rate(device, name) for name in names},
        )


def matmul_rate(device: str, precision: str) -> float:
    """Operations a second of the best of several products, in either layout of the second operand."""
    return max(_product_rates(device, DTYPES[precision]))


def _product_rates(device: str, dtype: torch.dtype) -> Iterator[float]:
    for n, k, m in SHAPES[device]:
        a, b = torch.ones(n, k, dtype=dtype, device=device), torch.ones(k, m, dtype=dtype, device=device)
        out = torch.empty(n, m, dtype=dtype, device=device)
        transposed = b.t().contiguous().t()  # how a linear layer keeps its weight
        for right in (b, transposed):
            yield 2 * n * k * m / _best(partial(torch.mm, a, right, out=out), device)


def memory_rates(device: str) -> tuple[float, float]:
    """Bytes a second of copying (read and written) and of reading arrays beyond the caches."""
    count = _room(device) // 4
    a, b = torch.ones(count, device=device), torch.ones(count, device=device)
    copy = 8 * count / _best(lambda: b.copy_(a), device)
    return copy, 4 * count / min(_best(a.sum, device), _best(a.amax, device))


def vector_rate(device: str, precision: str) -> float:
    """Bytes of weights a second when many matrices multiply one vector, as decoding a token does."""
    dtype, (n, k) = DTYPES[precision], MATRIX
    weight = torch.ones(n, k, dtype=dtype, device=device)
    weights = [weight.clone() for _ in range(max(1, _room(device) // 4 // weight.nbytes))]
    x = torch.ones(1, k, dtype=dtype, device=device)

    def token() -> Tensor:
        return [F.linear(x, w) for w in weights][-1]

    return len(weights) * weight.nbytes / _best(token, device)


def _room(device: str) -> int:
    return min(BYTES, devices.memory_available(device) // 16)


def _best(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest of several calls."""
    call()
    devices.wait(device)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        devices.wait(device)
        times.append(time.perf_counter() - began)
    return min(times)
