"""Encoded text on disk: ids in memory-mapped shards, addressed by the hash of text and tokenizer; torch-free.

    CACHE/shards/KEY/part-00000/ids.bin         ids of consecutive documents, uint16 or uint32, no end-of-text
                     part-00000/documents.bin   int64 [K, 3]: tokens, bytes, and whether a document ends here
                     part-00001/…
                     documents/ends.bin         int64 [n + 1]: where end-of-text stands in the stream S
                     documents/bytes.bin        int64 [n + 1]: bytes of original text before each document
                     packing-256/…              (`packing.py`)

Each folder appears whole, with a manifest of hashes; `documents` comes last and says that the parts are complete. What
a killed encode left is found by the next one, which encodes only what is missing or damaged. A part's content depends
on the text and the tokenizer alone, not on who encoded it or in how many threads.

n documents, N tokens. The stream S = E d1 E d2 E … dn E, of N + n + 1 positions, exists in no file: E is put in when S
is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from idiolect import files
from idiolect.cache import cache_folder, only_writer
from idiolect.errors import UserError
from idiolect.tokens.tokenizer import Tokenizer

FORMAT = 2
"""Version of the layout above and of how long texts come in parts; in the key."""
PART_SIZE = 1 << 24
"""Characters in a part (16 Mi), counting EACH_DOCUMENT besides for every document."""
EACH_DOCUMENT = 64
AT_ONCE = 2 << 20
"""Characters encoded at once: ids take four bytes each until they are written."""
WORKERS = 2
"""Parts at work: while one is encoded, by all cores, another is written."""


class Text(Protocol):
    """What is read of a document."""

    @property
    def text(self) -> str:
        """The text."""
        ...

    @property
    def last(self) -> bool:
        """False on all but the final part of a document that arrives in parts."""
        ...


class Corpus(Protocol):
    """Documents that can be read again and again."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that the documents depend on."""
        ...

    def __iter__(self) -> Iterator[Text]: ...


class Shards:
    """The encoded documents of one corpus, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        """Opens what `encode` wrote, checking every hash. Raises Damaged, a UserError that names the bad file."""
        about = _verified(folder / "documents")
        self.folder = folder
        self.fingerprint: str = about["key"]
        """The hash of text and tokenizer."""
        self.vocabulary: int = about["vocabulary"]
        """Ids of the tokenizer; each stored id is below."""
        self.ends = mapped(folder / "documents" / "ends.bin", np.int64)
        """int64 [n + 1]: the positions of end-of-text in S; document j lies between ends[j] and ends[j + 1]."""
        self.byte_ends = mapped(folder / "documents" / "bytes.bin", np.int64)
        """int64 [n + 1]: UTF-8 bytes of the original text before document j."""
        dtype = id_type(self.vocabulary)
        for number in range(about["parts"]):
            _verified(_part(folder, number), self.fingerprint)
        self.parts = [mapped(_part(folder, number) / "ids.bin", dtype) for number in range(about["parts"])]
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    @property
    def documents(self) -> int:
        """n, the number of documents."""
        return len(self.ends) - 1

    @property
    def tokens(self) -> int:
        """N, the number of ids, end-of-text not counted."""
        return int(self._starts[-1])

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the original text."""
        return int(self.byte_ends[-1])

    @property
    def labels(self) -> int:
        """N + n: each token and each document's end-of-text is predicted once."""
        return int(self.ends[-1])

    @property
    def ids(self) -> Joined:
        """All ids [N]; ids[begin:end] reads those."""
        return Joined(self.parts)

    @property
    def offsets(self) -> np.ndarray:
        """int64 [n + 1]: document j is ids[offsets[j] : offsets[j + 1]]."""
        return self.ends - np.arange(len(self.ends))

    def at(self, positions: np.ndarray, separator: int) -> np.ndarray:
        """S[positions], int64 of any shape, with the id `separator` where S holds end-of-text."""
        before = np.searchsorted(self.ends, positions)
        out = np.full(positions.shape, separator, dtype=np.int64)
        token = self.ends[before] != positions
        out[token] = self._stored((positions - before)[token])
        return out

    def _stored(self, index: np.ndarray) -> np.ndarray:
        """ids[index] of all N ids, [K]."""
        if len(self.parts) == 1:
            return self.parts[0][index]
        out = np.empty(index.shape, dtype=np.int64)
        part = np.searchsorted(self._starts, index, side="right") - 1
        for number in np.unique(part):
            inside = part == number
            out[inside] = self.parts[number][index[inside] - self._starts[number]]
        return out

    def counts(self) -> np.ndarray:
        """How often each id occurs, int64 [V]; read from the files, for pages that are mapped count as memory held."""
        total = np.zeros(self.vocabulary, dtype=np.int64)
        for number in range(len(self.parts)):
            with open(_part(self.folder, number) / "ids.bin", "rb") as file:
                while len(read := np.fromfile(file, id_type(self.vocabulary), 1 << 20)):
                    total += np.bincount(read, minlength=self.vocabulary)  # which makes int64 copies
        return total


class Joined:
    """Arrays laid end to end, of which a slice becomes an array."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts, self._starts = parts, np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, range_: slice, /) -> np.ndarray:
        begin, end, _ = range_.indices(len(self))
        return np.concatenate(
            [part[max(begin - at, 0) : max(end - at, 0)] for part, at in zip(self._parts, self._starts)]
        )


def id_type(vocabulary: int) -> np.dtype:
    """The smallest type that holds every id: uint16 up to 65,536 ids, otherwise uint32; little-endian."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def mapped(path: Path, dtype: np.dtype | type) -> np.ndarray:
    """The values in a raw file, read from disk as they are used."""
    with files.reading(path):
        if path.stat().st_size == 0:  # which cannot be mapped
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r").view(np.ndarray)


def encode(corpus: Corpus, tokenizer: Tokenizer, *, cache: Path | None = None, workers: int = 0) -> Shards:
    """The documents of `corpus` as ids, encoded unless that was done before.

    `workers` threads (0: WORKERS) encode one part each, so memory is bounded by workers x PART_SIZE. Threads suffice,
    as the tokenizer works outside Python's lock and on all cores; and they need no second import and no
    `if __name__ == "__main__"` in the user's script. Two processes that want the same thing do the work
    once. Raises UserError when there is no text, or when the disk refuses (exit 4).
    """
    key = _key(corpus, tokenizer)
    folder = (cache or cache_folder()) / "shards" / key[:32]
    if (folder / "documents").is_dir():
        try:
            return Shards(folder)
        except files.Damaged as error:
            warnings.warn(f"{error.what}; it is encoded again", stacklevel=2)
    with only_writer(folder):
        with contextlib.suppress(files.Damaged):
            return Shards(folder)  # another process did it while this one waited
        files.sweep(folder)
        count = _encode_missing(corpus, tokenizer, folder, key, workers or WORKERS)
        _write_documents(folder, key, tokenizer.size, count)
        return Shards(folder)


def _key(corpus: Corpus, tokenizer: Tokenizer) -> str:
    what = [FORMAT, PART_SIZE, EACH_DOCUMENT, corpus.fingerprint, tokenizer.fingerprint, tokenizer.size]
    return hashlib.sha256(json.dumps(what).encode("utf-8")).hexdigest()


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}"


def _verified(folder: Path, key: str | None = None) -> dict[str, Any]:
    """The manifest of a folder whose files all are as they were written, for that key. Raises Damaged."""
    if not folder.is_dir():
        raise files.Damaged(f"{folder} is missing", "encode the text again")
    manifest = files.verify(folder)
    if key not in (None, manifest.get("key")):
        raise files.Damaged(f"{folder} belongs to another text or tokenizer", "encode the text again")
    return manifest


def _whole(part: Path, key: str) -> bool:
    """Whether the part stands and is undamaged; what is damaged is removed."""
    if part.is_dir():
        try:
            _verified(part, key)
            return True
        except files.Damaged:
            files.remove_folder(part)
    return False


def _parts(corpus: Iterable[Text]) -> Iterator[tuple[list[str], list[bool]]]:
    """The texts a part holds, and which of them end a document, for each part in turn; the same whoever asks."""
    texts: list[str] = []
    last: list[bool] = []
    size = 0
    for document in corpus:
        text = document.text
        texts.append(text)
        last.append(document.last)
        size += len(text) + EACH_DOCUMENT
        if size >= PART_SIZE:
            yield texts, last
            texts, last, size = [], [], 0
    if texts:
        yield texts, last


def _encode_missing(corpus: Corpus, tokenizer: Tokenizer, folder: Path, key: str, workers: int) -> int:
    """Writes the parts that do not stand yet; returns how many there are."""
    count = 0
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for count, (texts, last) in enumerate(_parts(corpus), start=1):
                part = _part(folder, count - 1)
                if _whole(part, key):
                    continue
                pending.append(pool.submit(_write_part, part, key, texts, last, tokenizer))
                if len(pending) >= workers:
                    pending.popleft().result()
            while pending:
                pending.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return count


def _write_part(part: Path, key: str, texts: Sequence[str], last: Sequence[bool], tokenizer: Tokenizer) -> None:
    tokens: list[int] = []
    with files.new_folder(part, key=key) as new:
        with open(new / "ids.bin", "wb") as file:
            for some in _batches(texts):
                rows = tokenizer.encode_batch(some)
                tokens += map(len, rows)
                ids = np.concatenate(rows)
                assert not len(ids) or int(ids.max()) < tokenizer.size, "an id outside the vocabulary"
                file.write(ids.astype(id_type(tokenizer.size)).data)  # tofile would not notice a full disk
        sizes = [len(text) if text.isascii() else len(text.encode("utf-8")) for text in texts]
        (new / "documents.bin").write_bytes(np.array([tokens, sizes, last], dtype="<i8").T.tobytes())


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in batches of AT_ONCE characters or little more."""
    start = length = 0
    for end, text in enumerate(texts, start=1):
        length += len(text)
        if length >= AT_ONCE or end == len(texts):
            yield texts[start:end]
            start, length = end, 0


def _write_documents(folder: Path, key: str, vocabulary: int, parts: int) -> None:
    """Writes where documents end, and with it says that all parts stand. Documents without a token are passed over."""
    target = folder / "documents"
    if target.is_dir():
        files.remove_folder(target)
    tokens = bytes_ = documents = before = 0
    with (
        files.new_folder(target, key=key, vocabulary=vocabulary, parts=parts) as new,
        open(new / "ends.bin", "wb") as ends_file,
        open(new / "bytes.bin", "wb") as bytes_file,
    ):
        for number in range(parts):
            about = mapped(_part(folder, number) / "documents.bin", np.int64).reshape(-1, 3)
            token_ends, byte_ends = tokens + np.cumsum(about[:, 0]), bytes_ + np.cumsum(about[:, 1])
            tokens, bytes_ = int(token_ends[-1]), int(byte_ends[-1])
            final = np.flatnonzero(about[:, 2])
            final = final[np.diff(token_ends[final], prepend=before) > 0]
            if not len(final):
                continue
            before = int(token_ends[final[-1]])
            if not documents:
                ends_file.write(np.int64(0).tobytes())
                bytes_file.write(np.int64(0).tobytes())
            ends = token_ends[final] + documents + np.arange(1, len(final) + 1)
            documents += len(final)
            ends_file.write(ends.astype("<i8").tobytes())
            bytes_file.write(byte_ends[final].astype("<i8").tobytes())
        if not documents:
            raise UserError("there is no token in the text", "check the path, the field and the tokenizer's pattern")
        assert before == tokens, "the last document has no end"
