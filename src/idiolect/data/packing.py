"""Which pieces of documents share a row; torch-free.

    SHARDS/packing-CONTEXT/rows.bin      int64 [R + 1]: row r holds pieces rows[r] to rows[r + 1]
                           starts.bin    int64 [P]: where a piece begins in the stream S, its end-of-text
                           lengths.bin   int32 [P]: how many positions it reads, at most CONTEXT

R rows, P pieces. Computed once for a context and kept beside the shards.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idiolect import files
from idiolect.cache import only_writer
from idiolect.data.shards import Shards, mapped
from idiolect.data.windows import windows

FORMAT = 1
"""Version of the layout above and of the way rows are filled."""


class Pieces(NamedTuple):
    """What stands in each row of a batch, row by row and from left to right."""

    row: np.ndarray
    """int64 [P], the row of the batch, ascending."""
    starts: np.ndarray
    """int64 [P], where the piece begins in the stream S."""
    lengths: np.ndarray
    """int64 [P], the positions it takes."""


class Packing:
    """The rows of a corpus for one context."""

    def __init__(self, folder: Path) -> None:
        """Opens what `packing` wrote, checking every hash. Raises Damaged, a UserError that names the bad file."""
        if not folder.is_dir():
            raise files.Damaged(f"{folder} is missing", "pack the text again")
        if files.verify(folder).get("packing") != FORMAT:
            raise files.Damaged(f"{folder} is of another version", "pack the text again")
        self.rows = mapped(folder / "rows.bin", np.int64)
        self.starts = mapped(folder / "starts.bin", np.int64)
        self.lengths = mapped(folder / "lengths.bin", np.int32)

    def __len__(self) -> int:
        return len(self.rows) - 1

    @property
    def shared(self) -> bool:
        """Whether some row holds more than one piece."""
        return len(self.starts) > len(self)

    def pieces(self, rows: np.ndarray) -> Pieces:
        """The pieces of some rows."""
        first = self.rows[rows]
        counts = self.rows[rows + 1] - first
        piece = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return Pieces(np.repeat(np.arange(len(rows)), counts), self.starts[piece], self.lengths[piece].astype(np.int64))


def packing(shards: Shards, context: int) -> Packing:
    """The packing of `shards` for `context`, computed unless it stands already. Raises UserError (exit 4)."""
    folder = shards.folder / f"packing-{context}"
    with contextlib.suppress(files.Damaged):
        return Packing(folder)
    with only_writer(shards.folder):
        with contextlib.suppress(files.Damaged):
            return Packing(folder)  # another process did it while this one waited
        files.sweep(shards.folder)
        if folder.is_dir():
            files.remove_folder(folder)
        _write(shards, context, folder)
        return Packing(folder)


def _write(shards: Shards, context: int, folder: Path) -> None:
    pieces = 0
    with (
        files.new_folder(folder, packing=FORMAT, context=context) as new,
        open(new / "rows.bin", "wb") as rows,
        open(new / "starts.bin", "wb") as starts,
        open(new / "lengths.bin", "wb") as lengths,
    ):
        rows.write(np.int64(0).tobytes())
        for block in windows(shards.ends, context):
            row = fill(block.lengths, context)
            order = np.argsort(row, kind="stable")
            starts.write(block.starts[order].astype("<i8").tobytes())
            lengths.write(block.lengths[order].astype("<i4").tobytes())
            rows.write((pieces + np.cumsum(np.bincount(row))).astype("<i8").tobytes())
            pieces += len(order)


def fill(lengths: np.ndarray, context: int) -> np.ndarray:
    """The row of each piece, int64 [P] (rows 0, 1, … without a gap): best fit, the longest pieces first.

    Every piece goes into the fullest row that still has room for it. The rows with a given room are a stack, and the
    rooms that some row has are the bits of one integer, so that finding the row takes two operations on it.
    """
    full = lengths == context
    rows = int(full.sum())
    out = np.empty(len(lengths), dtype=np.int64)
    out[full] = np.arange(rows)
    rest = np.flatnonzero(~full)
    rest = rest[np.argsort(-lengths[rest], kind="stable")]
    with_room: dict[int, list[int]] = {}
    rooms = 0
    for piece, length in zip(rest.tolist(), lengths[rest].tolist(), strict=True):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            stack = with_room[room]
            row = stack.pop()
            if not stack:
                rooms ^= 1 << room
        else:
            room, row = context, rows
            rows += 1
        out[piece] = row
        if left := room - length:
            with_room.setdefault(left, []).append(row)
            rooms |= 1 << left
    return out
