"""Pairs of numbers in any order, written to disk by ranges of the first and read back sorted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

LOW = np.uint64(40)
"""Bits of the second number."""


class Scatter:
    """Pairs (first, second) on disk, one file for each `width` values of the first; `folder` is gone afterwards.

    width × 2^40 pairs fit in a number of 64 bits: width may be 2^24 and the second number must lie below 2^40.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, np.uint64(min(width, 1 << 24))
        self.parts: set[int] = set()

    def __enter__(self) -> Scatter:
        self.folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder)

    def add(self, first: NDArray[np.uint64], second: NDArray[np.uint64]) -> None:
        """More pairs."""
        part = first // self.width
        packed = ((first - part * self.width) << LOW) | second
        order = np.argsort(part, kind="stable")
        parts, starts = np.unique(part[order], return_index=True)
        for number, values in zip(parts.tolist(), np.split(packed[order], starts[1:])):
            with open(self.folder / str(number), "ab") as file:
                file.write(values.data)
            self.parts.add(number)

    def ordered(self) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """(first, second) of all pairs, a range of first numbers at a time, sorted, none twice."""
        for number in sorted(self.parts):
            packed = np.fromfile(self.folder / str(number), np.uint64)
            packed.sort()
            new = np.ones(len(packed), bool)
            np.not_equal(packed[1:], packed[:-1], out=new[1:])
            packed = packed[new]
            first = (packed >> LOW) + np.uint64(number) * self.width
            yield first, packed & np.uint64((1 << int(LOW)) - 1)
