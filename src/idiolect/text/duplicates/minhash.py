"""MinHash and its bands: documents that share many shingles share a band's key (Broder 1997; Leskovec et al., ch. 3).

The share of permutations under which two sets have the same smallest element is their Jaccard similarity J, so two
documents agree in all `rows` of a band with probability J^rows, and in one of `bands` bands with probability
1 - (1 - J^rows)^bands.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from idiolect import seeds
from idiolect.text.duplicates.shingles import Counts, Hashes, stirred

SEED = 1
"""Of the permutations; keys of one curation are never compared with those of another."""
STEP = np.uint64(0xA0761D6478BD642F)


def sets(hashes: Hashes, counts: Counts) -> tuple[NDArray[np.uint32], Counts]:
    """(elements, counts): the distinct shingles of each document, as sorted numbers of 32 bits, and how many it has.

    Two documents of n shingles have about n²/2³² elements in common by chance: 0.00002 where n is 300.
    """
    elements = (hashes >> np.uint64(32)).astype(np.uint32)
    ends = np.cumsum(counts)
    starts = ends - counts
    for start, end in zip(starts.tolist(), ends.tolist()):
        elements[start:end].sort()  # a few hundred at a time are sorted ten times as fast as all with their owners
    first = np.ones(len(elements), bool)
    first[1:] = elements[1:] != elements[:-1]
    first[starts[counts > 0]] = True
    seen = np.concatenate([[0], np.cumsum(first)])
    return elements[first], seen[ends] - seen[starts]


def band_keys(elements: NDArray[np.uint32], counts: Counts, bands: int, rows: int) -> Hashes:
    """[documents, bands]: the key of each band of each document's set; none of the sets may be empty.

    The permutations are x → ax + b modulo 2³², a odd, over shingles that are hashes already.
    """
    factors, shifts = _permutations(bands * rows)
    starts = np.cumsum(counts) - counts
    keys = np.empty((bands, len(counts)), np.uint64)
    turned = np.empty_like(elements)
    for band in range(bands):
        total = np.full(len(counts), band, np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            np.multiply(elements, factors[row], out=turned)
            turned += shifts[row]
            total *= STEP
            total += np.minimum.reduceat(turned, starts)
        keys[band] = stirred(total)
    return np.ascontiguousarray(keys.T)


@functools.lru_cache(maxsize=1)
def _permutations(number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    draws = seeds.numpy_generator(SEED, "minhash").integers(0, 1 << 32, (2, number), np.uint32)
    return draws[0] | np.uint32(1), draws[1]
