"""Every draw of the library is a pure function of a seed and of what the draw is for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

ROUNDS = 4
"""Rounds of the Feistel network in `permute`; four give a pseudo-random permutation (Luby and Rackoff 1988)."""


def derive(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, for example `derive(seed, "dropout", step)`.

    The first 63 bits of BLAKE2b-64 over the arguments as a JSON list: no two lists read alike, and a numpy integer
    counts as the integer it is.
    """
    text = json.dumps([seed, *purpose], default=operator.index)
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "big") >> 1


def uniform(seed: int, *purpose: int | str) -> float:
    """One number in [0, 1), a pure function of its arguments; generation draws with (seed, request, position)."""
    return (derive(seed, *purpose) >> 10) / (1 << 53)


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU torch generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A numpy generator for one purpose."""
    return np.random.Generator(np.random.PCG64(derive(seed, *purpose)))


@contextlib.contextmanager
def scope(seed: int, *purpose: int | str) -> Iterator[None]:
    """Pins torch's global generators (CPU, and the GPU when there is one) inside, and restores them after."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        if devices or torch.backends.mps.is_available():
            torch.manual_seed(derive(seed, *purpose))
        else:  # the same, without a note of the whole call stack for every kind of device that is not there: 0.8 ms
            torch.default_generator.manual_seed(derive(seed, *purpose))
        yield


def permute(index: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The images of `index` (any shape, values in [0, n)) under a pseudo-random permutation of range(n).

    Computed in constant memory for any n: a Feistel network on the smallest even number of bits that holds n, walked
    until the value falls below n (cycle walking, Black and Rogaway 2002).
    """
    half = max(1, ((max(n - 1, 1)).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = [np.uint64(derive(seed, "permute", r)) for r in range(ROUNDS)]
    out = np.asarray(index, dtype=np.uint64).copy()
    if out.size and int(out.max()) >= n:
        raise ValueError(f"index {int(out.max())} is not below {n}")
    walking = np.ones(out.shape, dtype=bool)
    while walking.any():
        out[walking] = _feistel(out[walking], keys, np.uint64(half), mask)
        walking = out >= n
    return out.astype(np.int64)


def _feistel(value: np.ndarray, keys: list[np.uint64], half: np.uint64, mask: np.uint64) -> np.ndarray:
    left, right = value >> half, value & mask
    for key in keys:
        mixed = right ^ key  # a round function of multiply and shift (the finaliser of MurmurHash3)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(33))) & mask)
    return (left << half) | right
