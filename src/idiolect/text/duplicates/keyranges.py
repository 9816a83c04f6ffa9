"""The keys of all tasks, read from disk a range of keys at a time."""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idiolect import files
from idiolect.errors import UserError
from idiolect.text.duplicates import keys
from idiolect.text.settings import CurateSettings

AT_ONCE = 1 << 20
"""Rows of a level that are in memory at a time."""
FOLDERS_OPEN = 128


class KeyRanges:
    """The folders that `keys.KeyWriter` wrote; documents are numbered over all of them, in order."""

    def __init__(self, folders: Sequence[Path], settings: CurateSettings) -> None:
        self.folders, self.settings = list(folders), settings
        counts = []
        for folder in folders:
            if not (folder / keys.LAST).exists():
                raise UserError(f"{folder} holds no whole set of keys", "run the curation again")
            about = files.read_json(folder / keys.LAST)
            if about["settings"] != keys.about(settings):
                raise UserError(f"{folder} was written with other settings", "curate into another folder")
            counts.append(about["documents"])
        self.bounds = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
        self.documents = int(self.bounds[-1])
        self._starts = self.bounds.tolist()
        self._opened = functools.lru_cache(FOLDERS_OPEN)(lambda task: _Task(self.folders[task]))

    def _runs(self, level: str) -> Iterator[tuple[int, Path]]:
        """(number of the task's first document, path) of each run of a level."""
        for base, folder in zip(self.bounds.tolist(), self.folders):
            number = 0
            while (path := folder / f"{level}-{number}.npy").exists():
                yield base, path
                number += 1

    def rows(self, level: str) -> int:
        """How many rows a level has."""
        return sum(len(np.load(path, mmap_mode="r")) for _, path in self._runs(level))

    def ranges(self, level: str) -> Iterator[Iterator[keys.Rows]]:
        """The rows of a level, a range of keys at a time, documents numbered over all tasks.

        Each range holds about AT_ONCE rows and comes in one part; one that holds many more, as a key is very frequent,
        comes in several, later ones of later documents. Where parts begin depends on the corpus alone.
        """
        runs = list(self._runs(level))
        parts = self.rows(level) // AT_ONCE + 1
        inner = np.array([keys.SPAN * part // parts for part in range(1, parts)], np.uint64)
        cuts = np.empty((len(runs), parts + 1), np.int64)
        for number, (_, path) in enumerate(runs):
            column = np.load(path, mmap_mode="r")[:, 0]
            cuts[number] = [0, *np.searchsorted(column, inner), len(column)]
        for part in range(parts):
            if int((cuts[:, part + 1] - cuts[:, part]).sum()) <= 2 * AT_ONCE:
                yield iter([_joined(_slice(*run, *cut[part : part + 2]) for run, cut in zip(runs, cuts))])
            else:
                yield self._windows(level, runs, cuts[:, part : part + 2])

    def _windows(self, level: str, runs: Sequence[tuple[int, Path]], cuts: NDArray[np.int64]) -> Iterator[keys.Rows]:
        """The rows of a range in parts of as many documents as have AT_ONCE rows in all ranges together."""
        documents = np.uint64(max(1, self.documents * AT_ONCE // self.rows(level)))
        held: list[keys.Rows] = []
        window = 0
        for (base, path), cut in zip(runs, cuts):
            rows = _slice(base, path, *cut)
            of = rows[:, 1] // documents
            for number in np.unique(of).tolist():
                if number != window and held:
                    yield _joined(held)
                    held = []
                window = number
                held.append(rows[of == np.uint64(number)])
        if held:
            yield _joined(held)

    def elements(self, document: int) -> NDArray[np.uint32]:
        """The shingles of a document, sorted."""
        task = bisect.bisect_right(self._starts, document) - 1
        return self._opened(task).elements(document - self._starts[task])

    def bands(self, documents: NDArray[np.int64]) -> NDArray[np.uint32]:
        """[documents, bands]: half of each band key of these documents."""
        width = self.settings.near.bands
        out = np.empty((len(documents), width), np.uint32)
        task = np.searchsorted(self.bounds, documents, side="right") - 1
        for number in np.unique(task).tolist():
            here = task == number
            stored = np.memmap(self.folders[number] / "bands.bin", np.uint32, "r").reshape(-1, width)
            out[here] = stored[documents[here] - self.bounds[number]]
        return out


class _Task:
    """The open files of one task's shingles; read, not mapped, as what is mapped counts as memory."""

    def __init__(self, folder: Path) -> None:
        self.ends = np.load(folder / "ends.npy")
        self.file = open(folder / "elements.bin", "rb")  # noqa: SIM115 - closed with the object

    def elements(self, number: int) -> NDArray[np.uint32]:
        start = int(self.ends[number - 1]) if number else 0
        stop = int(self.ends[number])
        return np.frombuffer(os.pread(self.file.fileno(), 4 * (stop - start), 4 * start), np.uint32)


def _slice(base: int, path: Path, start: int, stop: int) -> keys.Rows:
    rows = np.array(np.load(path, mmap_mode="r")[start:stop])
    rows[:, 1] += np.uint64(base)
    return rows


def _joined(parts: Iterator[keys.Rows] | list[keys.Rows]) -> keys.Rows:
    found = list(parts)
    return np.concatenate(found) if found else np.zeros((0, 3), np.uint64)
