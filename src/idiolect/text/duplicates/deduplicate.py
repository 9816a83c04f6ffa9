"""Which documents and lines of a corpus are left out because an earlier one says the same: one decision over all tasks.

Levels, in this order: address, text, near duplicates, lines. Of equal documents the first is kept; a document that
one level drops is no reason to drop another. The decision depends on the documents and their order alone, not on how
they were cut into tasks. Keys are read from disk in ranges (see `duplicates.keys`), so
memory does not grow with the corpus, but for a few bytes a document in mapped files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from idiolect.text.duplicates import keys, near
from idiolect.text.duplicates.keyranges import KeyRanges
from idiolect.text.duplicates.partitions import Scatter
from idiolect.text.settings import CurateSettings

REASONS = ("", "duplicate address", "duplicate text", "near duplicate")
"""What the numbers of `Decisions.reasons` stand for."""
ADDRESS, TEXT, NEAR = 1, 2, 3
LINES_AT_ONCE = 1 << 21
"""Lines whose documents are looked at together."""


class Counts(NamedTuple):
    """What was decided."""

    documents: int
    """Documents that were compared."""
    dropped: dict[str, int]
    """Reason → documents."""
    lines: int
    """Lines that are left out of documents that are kept."""


class Decisions(NamedTuple):
    """What was decided of one task's documents."""

    reasons: NDArray[np.uint8]
    """[documents]: an index into REASONS; 0 keeps the document."""
    originals: NDArray[np.int64]
    """[documents]: the number, over all tasks, of the kept document that it repeats; -1 where it is kept."""
    lines: dict[int, list[int]]
    """Document of the task → the lines to leave out of it, for `without_lines`."""


def decide(tasks: Sequence[Path], out: Path, settings: CurateSettings) -> Counts:
    """Decides over the documents whose keys lie in the folders `tasks`, in this order; writes it into the folder `out`.

    Raises UserError when a folder is not whole, or was written with other settings.
    """
    found = KeyRanges(tasks, settings)
    shape = max(1, found.documents)  # a file of no bytes cannot be mapped
    reasons = np.lib.format.open_memmap(out / "reasons.npy", "w+", np.uint8, (shape,))
    originals = np.lib.format.open_memmap(out / "originals.npy", "w+", np.int64, (shape,))
    originals[:] = -1
    if settings.url.drop:
        _equal(found, "address", ADDRESS, reasons, originals)
    if settings.exact.drop:
        _equal(found, "text", TEXT, reasons, originals)
    if settings.near.drop:
        for number, original in near.duplicates(found, out, reasons, settings.near):
            reasons[number], originals[number] = NEAR, original
    lines = _lines(found, out, reasons) if settings.lines.drop else 0
    reasons.flush()
    originals.flush()
    np.save(out / "bounds.npy", found.bounds)
    counted = np.bincount(reasons[: found.documents], minlength=len(REASONS))
    return Counts(found.documents, {name: int(n) for name, n in zip(REASONS, counted) if name}, lines)


def _equal(found: KeyRanges, level: str, reason: int, reasons: NDArray[np.uint8], originals: NDArray[np.int64]) -> None:
    """Drops the documents whose whole key an earlier document has that is kept so far."""
    for rows, first in _repeated(found, level, reasons):
        reasons[rows[:, 1]] = reason
        originals[rows[:, 1]] = first[:, 1]


def _repeated(found: KeyRanges, level: str, reasons: NDArray[np.uint8]) -> Iterator[tuple[keys.Rows, keys.Rows]]:
    """(rows, first): rows whose key came before, each with the first row of that key; of documents that are kept."""
    exact = level != "lines"  # the last column belongs to the key
    for stretch in found.ranges(level):
        known = np.zeros((0, 3), np.uint64)  # the first row of each key, when a stretch comes in several parts
        for rows in stretch:
            rows = np.concatenate([known, rows[reasons[rows[:, 1].astype(np.int64)] == 0]])
            order = [rows[:, 1], rows[:, 2], rows[:, 0]] if exact else [rows[:, 2], rows[:, 1], rows[:, 0]]
            rows = rows[np.lexsort(order)]
            new = np.ones(len(rows), bool)
            new[1:] = rows[1:, 0] != rows[:-1, 0]
            if exact:
                new[1:] |= rows[1:, 2] != rows[:-1, 2]
            known = rows[new]
            again = np.flatnonzero(~new)
            yield rows[again], known[np.cumsum(new)[again] - 1]


def _lines(found: KeyRanges, out: Path, reasons: NDArray[np.uint8]) -> int:
    """Writes the lines to leave out, ordered by document: `lines.bin`, pairs of document and line; says how many."""
    total = max(1, found.rows("lines"))
    with Scatter(out / "lines.partial", max(1, found.documents * LINES_AT_ONCE // total)) as scatter:
        for rows, _ in _repeated(found, "lines", reasons):
            scatter.add(rows[:, 1], rows[:, 2])
        count = 0
        with open(out / "lines.bin", "wb") as file:
            for documents, lines in scatter.ordered():
                file.write(np.stack([documents, lines], 1).data)
                count += len(lines)
    return count


def decisions(out: Path, task: int) -> Decisions:
    """What was decided of the documents of the task with this number."""
    bounds = np.load(out / "bounds.npy")
    start, stop = int(bounds[task]), int(bounds[task + 1])
    reasons = np.load(out / "reasons.npy", mmap_mode="r")[start:stop]
    originals = np.load(out / "originals.npy", mmap_mode="r")[start:stop]
    lines: dict[int, list[int]] = {}
    path = out / "lines.bin"
    if path.exists() and path.stat().st_size:
        pairs = np.memmap(path, np.uint64, "r").reshape(-1, 2)
        low, high = np.searchsorted(pairs[:, 0], np.array([start, stop], np.uint64))
        for document, line in pairs[low:high].tolist():
            lines.setdefault(document - start, []).append(line)
    return Decisions(np.array(reasons), np.array(originals), lines)


def place(out: Path, number: int) -> tuple[int, int]:
    """(task, document of the task) of a document's number over all tasks."""
    bounds = np.load(out / "bounds.npy")
    task = int(np.searchsorted(bounds, number, side="right")) - 1
    return task, number - int(bounds[task])


def without_lines(text: str, numbers: Collection[int]) -> str:
    """The text without the lines of these numbers, which count from 0."""
    leave = set(numbers)
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in leave)
