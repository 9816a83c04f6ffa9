"""Tokenizers without merges: the id of each byte or character is looked up in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from idiolect.tokens import describe

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Texts → ids of all of them, uint32 [N], and how many each has, int64 [K]. UnicodeEncodeError: half a surrogate."""
ABSENT = np.uint32(0xFFFFFFFF)


def encoder(spec: describe.Spec) -> Encode | None:
    """Encodes as a byte or char tokenizer does that takes text as it is; None for all other tokenizers."""
    model, before = spec["model"], spec["pre_tokenizer"] or {}
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or model["merges"] or any(model.get(key) for key in odd) or spec["normalizer"]:
        return None
    if not all(token["special"] for token in spec["added_tokens"]):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    if before.get("type") == "ByteLevel" and not before["add_prefix_space"]:
        spelled = {byte: character for character, byte in describe.byte_characters().items()}
        if all(character in vocabulary for character in spelled.values()):
            return _Bytes(np.array([vocabulary[spelled[byte]] for byte in range(256)], dtype=np.uint32)).encode
    if not before and model.get("byte_fallback"):
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        if all(name in vocabulary for name in names):
            return _Characters(vocabulary, np.array([vocabulary[name] for name in names], dtype=np.uint32)).encode
    return None


class _Bytes:
    def __init__(self, ids: np.ndarray) -> None:
        """ids: of each byte, uint32 [256]."""
        self._ids = ids

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [text.encode() for text in texts]
        ids = self._ids[np.frombuffer(b"".join(encoded), dtype=np.uint8)]
        return ids, np.array([len(text) for text in encoded], dtype=np.int64)


class _Characters:
    def __init__(self, vocabulary: dict[str, int], bytes_: np.ndarray) -> None:
        """vocabulary: a character is an id where its text is in it, otherwise its bytes' ids, uint32 [256], are."""
        self._bytes = bytes_
        self._ids = np.full(0x110000, ABSENT)  # [code point]
        for token, id_ in vocabulary.items():
            if len(token) == 1:
                self._ids[ord(token)] = id_

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        points = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4")
        ids = self._ids[points]
        counts = np.array([len(text) for text in texts], dtype=np.int64)
        absent = ids == ABSENT
        if not absent.any():
            return ids, counts
        sizes = np.where(absent, 1 + sum((points >= least).astype(np.int64) for least in (0x80, 0x800, 0x10000)), 1)
        ends = np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], np.cumsum(counts)])]
        missing = points[absent].tobytes().decode("utf-32-le").encode()
        ids = np.repeat(ids, sizes)
        ids[np.repeat(absent, sizes)] = self._bytes[np.frombuffer(missing, dtype=np.uint8)]
        return ids, np.diff(ends)
