"""Texts as sets of hashed word sequences: what near duplicates and contaminated documents are known by.

Words are runs of letters, digits and combining marks, in small letters; everything else only sets them apart. A
character of a script that is written without spaces (Chinese, Japanese, Thai, Khmer, Lao, Burmese) is a word by itself.
The hashes depend on nothing but the text, the tables of Unicode for its characters, and the constants here.

All is done for many texts at once, by numpy: the hash of a word is a polynomial in its characters modulo 2^64, which
falls out of running sums over the whole batch (Karp and Rabin 1987), and then is stirred.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Counts = NDArray[np.int64]

BASE = np.uint64(0x9E3779B97F4A7C15)
"""What the polynomial is in: odd, so that it has an inverse modulo 2^64."""
STEP = np.uint64(0xD6E8FEB86659FD93)
"""The same for sequences of words."""
BATCH = 1 << 16
"""Characters at a time: their running sums stay in the processor's cache."""
APART, INSIDE, ALONE, UNKNOWN = 0, 1, 2, 3
"""What a character is: between words, in a word, a word by itself, not looked up yet."""
UNSPACED = (
    *((0x0E00, 0x0E4F), (0x0E80, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17DF)),  # Thai, Lao, Burmese, Khmer
    *((0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x31F0, 0x31FF)),  # Japanese
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),  # Chinese characters
)
"""First and last character of scripts written without spaces."""
_KINDS = np.full(0x110000, UNKNOWN, np.uint8)


def shingles(texts: Sequence[str], words: int) -> tuple[Hashes, Counts]:
    """(hashes, counts): the hash of every sequence of `words` words of each text, in order, and how many each has.

    A text of fewer words has one sequence, all of them; a text without words has none.
    """
    hashes, counts = word_hashes(texts)
    return sequences(hashes, counts, words, short=True)


def sequences(hashes: Hashes, counts: Counts, words: int, *, short: bool) -> tuple[Hashes, Counts]:
    """The hashes of all sequences of `words` words, given the words' hashes and how many each text has.

    With `short` a text of fewer words has one sequence, all its words.
    """
    ends = np.cumsum(counts)
    starts = ends - counts
    found = np.maximum(counts - words + 1, 0)
    sums = hashes
    for _, longer in rolling(hashes, words):
        sums = longer
    whole = np.ones(len(sums), bool)  # sequences that lie in one text
    for k in range(1, words):
        across = ends - k
        whole[across[(across >= 0) & (across < len(sums))]] = False
    sums = sums[whole]
    if short and (few := np.flatnonzero((counts > 0) & (counts < words))).size:
        alone = np.array([_horner(hashes[starts[i] : ends[i]]) for i in few], np.uint64)
        sums = np.insert(sums, np.cumsum(found)[few], alone)
        found[few] = 1
    return stirred(sums), found


def rolling(hashes: Hashes, words: int) -> Iterator[tuple[int, Hashes]]:
    """(n, sums) for n from 1 to `words`: what becomes, stirred, the hashes of all sequences of n of the words."""
    sums = hashes
    for n in range(1, words + 1):
        if n > 1:
            sums = sums[:-1] * STEP
            sums += hashes[n - 1 :]
        yield n, sums


def _horner(hashes: Hashes) -> np.uint64:
    total = hashes[:1].copy()
    for one in hashes[1:]:
        total = total * STEP + one
    return np.uint64(total[0])


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Counts]:
    """(hashes, counts): the hash of every word of each text, in order, and how many each has."""
    counts = np.zeros(len(texts), np.int64)
    found: list[Hashes] = []
    for pieces, owners in _batches(texts):
        hashes, per_piece = _hashed(pieces)
        found.append(hashes)
        np.add.at(counts, owners, per_piece)
    return np.concatenate(found) if found else np.zeros(0, np.uint64), counts


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
    """Pieces of texts in small letters, at most BATCH characters together, and the number of each piece's text."""
    pieces: list[str] = []
    owners: list[int] = []
    held = 0
    for number, text in enumerate(texts):
        for piece in _pieces(text.lower()):
            if pieces and held + len(piece) >= BATCH:
                yield pieces, owners
                pieces, owners, held = [], [], 0
            pieces.append(piece)
            owners.append(number)
            held += len(piece) + 1
    if pieces:
        yield pieces, owners


def _pieces(text: str) -> Iterator[str]:
    """The text cut at white space into pieces of at most BATCH characters; a longer word is cut anywhere."""
    start = 0
    while len(text) - start > BATCH:
        cut = max(text.rfind(" ", start, start + BATCH), text.rfind("\n", start, start + BATCH))
        cut = cut + 1 if cut >= start else start + BATCH
        yield text[start:cut]
        start = cut
    yield text[start:] if start else text


def _hashed(pieces: list[str]) -> tuple[Hashes, Counts]:
    """The hash of every word of the pieces, and how many each has."""
    codes = np.frombuffer("\n".join(pieces).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds(codes)
    padded = np.zeros(len(kinds) + 2, np.uint8)
    padded[1:-1] = kinds
    # a word begins where the kind changes to INSIDE, and ends where it changes from it; ALONE does both every time
    changed = padded[1:] != padded[:-1]
    changed |= padded[1:] == ALONE
    edges = np.flatnonzero(changed)
    starts = edges[padded[1:][edges] != APART]
    stops = edges[padded[edges] != APART]
    up, down = _powers(len(codes) + 1)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * up[: len(codes)], out=sums[1:])
    hashes = stirred((sums[stops] - sums[starts]) * down[starts])
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ends = np.cumsum(lengths + 1)
    return hashes, np.diff(np.searchsorted(starts, ends), prepend=0)


def _kinds(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """What each character is; pages of Unicode that were not met before are looked up."""
    places = codes.astype(np.intp)
    kinds = np.take(_KINDS, places)
    if kinds.max(initial=0) == UNKNOWN:
        for page in np.unique(places[kinds == UNKNOWN] >> 8).tolist():
            _KINDS[page << 8 : (page + 1) << 8] = [_kind(code) for code in range(page << 8, (page + 1) << 8)]
        kinds = np.take(_KINDS, places)
    return kinds


def _kind(code: int) -> int:
    category = unicodedata.category(chr(code))
    if category[0] not in "LNM":
        return APART
    return ALONE if any(first <= code <= last for first, last in UNSPACED) else INSIDE


@functools.lru_cache(maxsize=1)
def _all_powers() -> tuple[Hashes, Hashes]:
    length = BATCH + 2
    up, down = np.full(length, BASE), np.full(length, np.uint64(pow(int(BASE), -1, 1 << 64)))
    up[0] = down[0] = 1
    return np.cumprod(up), np.cumprod(down)


def _powers(length: int) -> tuple[Hashes, Hashes]:
    """BASE to the power of 0, 1, …, and its inverses, modulo 2^64."""
    up, down = _all_powers()
    return up[:length], down[:length]


def stirred(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value: the last step of SplitMix64 (Steele et al. 2014)."""
    out = values ^ (values >> np.uint64(30))
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out
