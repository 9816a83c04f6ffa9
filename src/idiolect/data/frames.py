"""Sources that are no text: sequences of frames, each a row of numbers, such as a spectrum or a line of a picture.

A jsonl row has its frames as a list of lists of numbers, or the name of a .npy file (frames [S, F]) that lies in the
folder of the jsonl file or below it, and the text that belongs to them.

B rows, S frames, F numbers in a frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idiolect.errors import UserError
from idiolect.text.passport import Passport, passport
from idiolect.text.read import files_of, good, json_rows, problem

FIELD = "frames"
"""Where frames are looked for unless a recipe says otherwise."""
SUFFIXES = (".jsonl",)


def read(paths: Sequence[Path | str], field: str, target: str | None = None) -> Iterator[tuple[np.ndarray, str]]:
    """(frames float32 [S, F], text) of every row; the text is empty when no field for it is named. As `rows`."""
    return (found[1:] for found in rows(paths, field, target))


def rows(
    paths: Sequence[Path | str], field: str, target: str | None = None
) -> Iterator[tuple[Passport, np.ndarray, str]]:
    """The passport of every row, its frames float32 [S, F], and its text.

    Rows without frames or text are left out, counted and logged. Raises UserError when they are too many, for files
    that are no jsonl, and when not all frames are of one width.
    """
    width = 0
    hint = f"name its fields (now {field}{'' if target is None else f' and {target}'})"
    for path in files_of(paths, SUFFIXES):
        for number, (row, frames, text) in good(path, _rows(path, field, target), lambda row: "", hint):
            width = width or frames.shape[1]
            if frames.shape[1] != width:
                what = f"{path}: row {number + 1} has frames of {frames.shape[1]} numbers, those before it of {width}"
                raise UserError(what, "make all frames as wide")
            yield passport(row, f"{path.name}:{number}", path.name, (field, str(target))), frames, text


def _rows(path: Path, field: str, target: str | None) -> Iterator[Any]:
    """Each row with its frames and text, or a ValueError saying why it has none."""
    for row in json_rows(path):
        if isinstance(row, ValueError):
            yield row
        elif not isinstance(row, dict):
            yield ValueError("not an object")
        elif target is not None and (found := problem(row, target)):
            yield ValueError(found)
        else:
            try:
                yield row, _frames(row.get(field), path.parent), "" if target is None else row[target]
            except (ValueError, TypeError, OverflowError, OSError) as error:
                yield ValueError(f"no frames in field {field!r}: {error}")


def _frames(value: Any, folder: Path) -> np.ndarray:
    """A row's frames, float32 [S, F]. Raises ValueError, TypeError, OverflowError or OSError for what is none."""
    array = _stored(value, folder) if isinstance(value, str) else np.asarray(value)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise ValueError(f"not a list of frames of numbers (shape {array.shape}, type {array.dtype})")
    with np.errstate(over="ignore"):
        frames = array.astype(np.float32)
    if not np.isfinite(frames).all():
        raise ValueError("a number is not finite")
    return frames


def _stored(name: str, folder: Path) -> np.ndarray:
    """The array in a .npy file. Raises ValueError for another kind of file or array, or one that lies elsewhere."""
    path = (folder / name).resolve()
    if path.suffix != ".npy" or not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name[:99]!r} is no .npy file in the folder of the rows")
    try:  # mapped, so that a header that promises more than the file holds is refused; never objects
        return np.lib.format.open_memmap(path, mode="r")
    except MemoryError:
        raise
    except Exception as error:  # a header goes through Python's own parser, with all its errors
        raise ValueError(f"{name[:99]!r} cannot be read: {error}") from None


def pad(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Frames [S, F] each → (float32 [B, S, F] filled up with zeros, lengths int64 [B]); S is the longest."""
    lengths = [len(row) for row in rows]
    out = np.zeros((len(rows), max(lengths), rows[0].shape[1]), dtype=np.float32)
    for row, length, place in zip(rows, lengths, out, strict=True):
        place[:length] = row
    return torch.from_numpy(out), torch.tensor(lengths, dtype=torch.int64)


def fingerprint(examples: Iterable[tuple[np.ndarray, str]]) -> str:
    """SHA-256 over all frames and texts."""
    digest = hashlib.sha256()
    for frames, text in examples:
        digest.update(f"{frames.shape} {len(text)} {text}".encode())
        digest.update(frames.tobytes())
    return digest.hexdigest()
