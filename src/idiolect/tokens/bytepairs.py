"""Byte-level byte pair encoding of much text in C++ (`bytepairs.cpp`): the ids of the library `tokenizers`, sooner.

The library cuts text by a general engine of regular expressions and makes an object of every token. Here the known
patterns are code, the ids of a word are remembered, and threads share the text. What a letter, a number and a space are
is asked of the library itself, 256 characters at a time, when a text first has one of them: so both always agree.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from idiolect import devices, native
from idiolect.tokens import describe, patterns

WORTH = 1 << 20
"""Characters below which the library is as good: loading the C++ part takes a while, and compiling it a second."""
PADDING = "\0" * 32
"""Follows the text, as words are read eight bytes at a time."""
PAGES = 0x1100
"""Code points in 256s."""
CLASSES = (r"\p{L}", r"\p{N}", r"\s")
"""Classes 1, 2 and 3; 0 is everything else."""
CUTTERS = {patterns.GPT2: (0, -1), patterns.CL100K: (1, 3), patterns.QWEN: (1, 1)}
"""Pattern → its number in bytepairs.cpp, and how many digits at most are one word."""


@functools.cache
def classes(page: int) -> bytes:
    """What the library's patterns hold each of 256 code points for, bytes [256] of 0 to 3; none of them a surrogate."""
    text = "".join(map(chr, range(page << 8, (page + 1) << 8)))
    out = bytearray(256)
    for number, pattern in enumerate(CLASSES, start=1):
        for found, _ in Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(text):
            out[ord(found) & 255] = number
    return bytes(out)


def pattern_of(spec: describe.Spec) -> str | None:
    """The pattern by which a byte-level BPE cuts text that is otherwise taken as it is; None for all other tokenizers.

    Only what is certain to work here as in the library is accepted.
    """
    model, before = spec["model"], spec["pre_tokenizer"] or {}
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(key) for key in odd) or spec["normalizer"] is not None:
        return None
    if not all(token["special"] for token in spec["added_tokens"]):
        return None
    if not all(character in model["vocab"] for character in describe.byte_characters()):
        return None
    if before == describe.byte_level(use_regex=True) | {"trim_offsets": before.get("trim_offsets")}:
        return patterns.GPT2
    if before.get("type") != "Sequence" or len(before["pretokenizers"]) != 2:
        return None
    split, bytes_ = before["pretokenizers"]
    if bytes_ != describe.byte_level(use_regex=False) | {"trim_offsets": bytes_.get("trim_offsets")}:
        return None
    pattern = split.get("pattern", {}).get("Regex")
    plain = split == {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return pattern if plain and pattern in CUTTERS else None


def encoder(spec: describe.Spec) -> Encoder | None:
    """An encoder for the tokenizer; None when it is another kind, or where no C++ can be compiled."""
    pattern = pattern_of(spec)
    if pattern is None or (library := native.load(Path(__file__).with_suffix(".cpp"))) is None:
        return None
    return Encoder(library, spec["model"], pattern)


class Encoder:
    """The ids of texts; safe to call from several threads, which wait for one another."""

    def __init__(self, library: ctypes.CDLL, model: describe.Spec, pattern: str) -> None:
        vocabulary = model["vocab"]
        of_byte = {byte: vocabulary[character] for character, byte in describe.byte_characters().items()}
        bytes_ = np.array([of_byte[byte] for byte in range(256)], dtype=np.uint32)
        merges = [(vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in model["merges"]]
        triples = np.array(merges, dtype=np.uint32).reshape(-1, 3)
        self._library = library
        self._lock = threading.Lock()
        library.make.restype = ctypes.c_void_p
        library.unknown.restype = library.encode.restype = ctypes.c_int64
        number, digits = CUTTERS[pattern]
        made = library.make(_at(bytes_), _at(triples), ctypes.c_int64(len(merges)), classes(0)[:128], number, digits)
        self._self = ctypes.c_void_p(made)
        weakref.finalize(self, library.release, self._self)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts, uint32 [N], and how many each text has, int64 [K]."""
        whole = "".join((*texts, PADDING)).encode()
        size = len(whole) - len(PADDING)
        each = map(len, texts) if whole.isascii() else (len(text.encode()) for text in texts)
        ends = np.cumsum([*each], dtype=np.int64)
        ids, counts = np.empty(size, dtype=np.uint32), np.empty(len(texts), dtype=np.int64)
        pages = np.empty(PAGES, dtype=np.intc)
        with self._lock:
            for page in pages[: self._library.unknown(self._self, whole, ctypes.c_int64(size), _at(pages))].tolist():
                self._library.teach(self._self, page, classes(page))
            number = self._library.encode(
                *(self._self, whole, _at(ends), ctypes.c_int64(len(texts)), devices.threads(), _at(ids), _at(counts))
            )
        if number < 0:
            raise MemoryError("no memory to encode the text")
        return ids[:number].copy(), counts


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
