"""What a document is compared by, written by the worker that read it: keys on disk, sorted, for one global decision.

A task's folder holds for each level one or more *runs*, `LEVEL-K.npy`: rows of unsigned 64-bit numbers, sorted by
their first column, the key, and by document where keys are equal.

| level | key | other columns |
| --- | --- | --- |
| address | first half of the hash of the canonical address | document, second half |
| text | first half of the hash of the text in one spelling | document, second half |
| near | key of a band of its MinHash signature | document, number of shingles |
| lines | hash of a line | document, line |

Besides, in order of the documents: `bands.bin`, half of each band key; `elements.bin`, the distinct shingles, sorted;
`ends.npy`, where each document's end. `keys.json` is written last.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from idiolect import files
from idiolect.text.duplicates import addresses, minhash, shingles
from idiolect.text.settings import CurateSettings

Rows = NDArray[np.uint64]
BATCH = 1 << 17
"""Characters that are hashed at a time."""
RUN = 1 << 20
"""Rows that are sorted at a time."""
LAST = "keys.json"
SPAN = 1 << 64


class KeyWriter:
    """Writes the keys of a task's documents, in their order, into a folder."""

    def __init__(self, folder: Path, settings: CurateSettings) -> None:
        self.folder, self.settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        self.documents = 0
        self._texts: list[str] = []
        self._addresses: dict[int, str] = {}
        self._held = 0
        self._ends: list[NDArray[np.int64]] = []
        self._runs = {level: _Runs(folder, level) for level in ("address", "text", "near", "lines")}
        near = settings.near.drop
        # `close` closes them
        self._elements: IO[bytes] | None = open(folder / "elements.bin", "wb") if near else None  # noqa: SIM115
        self._bands: IO[bytes] | None = open(folder / "bands.bin", "wb") if near else None  # noqa: SIM115

    def add(self, text: str, url: str | None) -> None:
        """One more document; `url` is the address it was read at, None or empty where it has none."""
        if self.settings.url.drop and url:
            self._addresses[self.documents] = addresses.canonical(url)
        self.documents += 1
        self._texts.append(text)
        self._held += len(text) + 1
        if self._held >= BATCH:
            self._flush()

    def close(self) -> None:
        """Writes what is left, and `keys.json`, which makes the folder whole."""
        self._flush()
        for runs in self._runs.values():
            runs.flush()
        for file in (self._elements, self._bands):
            if file:
                file.close()
        counts = np.concatenate(self._ends) if self._ends else np.zeros(0, np.int64)
        np.save(self.folder / "ends.npy", np.cumsum(counts))
        files.write_json(self.folder / LAST, {"documents": self.documents, "settings": about(self.settings)})

    def _flush(self) -> None:
        """Hashes the texts that are held."""
        texts, self._texts, self._held = self._texts, [], 0
        if not texts:
            return
        first = self.documents - len(texts)
        if self._addresses:
            self._runs["address"].add(_half_keys(list(self._addresses.values()), list(self._addresses)))
            self._addresses = {}
        if self.settings.exact.drop:
            numbers = range(first, self.documents)
            self._runs["text"].add(_half_keys([one_spelling(text) for text in texts], numbers))
        if self.settings.lines.drop:
            self._runs["lines"].add(_line_keys(texts, first, self.settings.lines.min_characters))
        if self._elements and self._bands:
            self._near(texts, first, self._elements, self._bands)

    def _near(self, texts: Sequence[str], first: int, elements_file: IO[bytes], bands_file: IO[bytes]) -> None:
        near = self.settings.near
        elements, counts = minhash.sets(*shingles.shingles(texts, near.shingle))
        elements_file.write(elements.data)
        self._ends.append(counts)
        there = np.flatnonzero(counts)
        keys = minhash.band_keys(elements, counts[there], near.bands, near.rows)
        halves = np.zeros((len(texts), near.bands), np.uint32)
        halves[there] = keys >> np.uint64(32)
        bands_file.write(halves.data)
        span = np.uint64(SPAN // near.bands)
        rows = np.empty((*keys.shape, 3), np.uint64)
        rows[..., 0] = keys // np.uint64(near.bands) + np.arange(near.bands, dtype=np.uint64) * span
        rows[..., 1] = (there + first).astype(np.uint64)[:, None]
        rows[..., 2] = counts[there].astype(np.uint64)[:, None]
        self._runs["near"].add(rows.reshape(-1, 3))


class _Runs:
    """The rows of one level, sorted RUN at a time."""

    def __init__(self, folder: Path, level: str) -> None:
        self.folder, self.level = folder, level
        self.rows: list[Rows] = []
        self.held = self.written = 0

    def add(self, rows: Rows) -> None:
        self.rows.append(rows)
        self.held += len(rows)
        if self.held >= RUN:
            self.flush()

    def flush(self) -> None:
        if not self.held:
            return
        rows = np.concatenate(self.rows)
        self.rows, self.held = [], 0
        np.save(self.folder / f"{self.level}-{self.written}.npy", rows[np.argsort(rows[:, 0], kind="stable")])
        self.written += 1


def about(settings: CurateSettings) -> dict[str, object]:
    """What the keys depend on."""
    return {
        "url": settings.url.drop,
        "exact": settings.exact.drop,
        "near": settings.near.model_dump(exclude={"threshold"}) if settings.near.drop else False,
        "lines": settings.lines.model_dump() if settings.lines.drop else False,
    }


def one_spelling(text: str) -> str:
    """A text as it is compared: in Unicode's form NFC, with one space for every stretch of white space."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _half_keys(texts: Sequence[str], numbers: Sequence[int]) -> Rows:
    """[texts, 3]: half the hash of each text, its document's number, the other half."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    rows = np.empty((len(texts), 3), np.uint64)
    rows[:, 0::2] = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    rows[:, 1] = numbers
    return rows


def _line_keys(texts: Sequence[str], first: int, shortest: int) -> Rows:
    """[lines, 3]: the hash, document and number of every line that has enough characters."""
    digests, documents, numbers = [], [], []
    for document, text in enumerate(texts, first):
        for number, line in enumerate(text.split("\n")):
            line = line.strip()
            if len(line) >= shortest:
                digests.append(hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest())
                documents.append(document)
                numbers.append(number)
    return np.stack([np.frombuffer(b"".join(digests), "<u8"), np.array(documents, "u8"), np.array(numbers, "u8")], 1)
