"""Texts and tagged words as rows of ids.

T positions, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from idiolect.tokens.tokenizer import Tokenizer


class Words(NamedTuple):
    """A sentence of W words as a row of ids."""

    ids: np.ndarray
    """int64 [T]."""
    places: np.ndarray
    """int64 [≤ W], the position at which each word's tag is read; words that did not fit have none."""


class Frame(NamedTuple):
    """What a text stands between, and how long it may be."""

    before: tuple[int, ...]
    """The ids before it."""
    after: tuple[int, ...]
    """The ids after it."""
    context: int | None
    """Positions at most, with both; None: any number."""

    @property
    def room(self) -> int | None:
        """Positions of the text itself."""
        return None if self.context is None else self.context - len(self.before) - len(self.after)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """ids [T] → int64: what is before, as many of the ids as fit, what is after."""
        return np.concatenate([self.before, ids[: self.room], self.after]).astype(np.int64)

    def of_words(self, pieces: Sequence[np.ndarray], *, last: bool) -> Words:
        """The ids of each word → the row of as many words as fit, each read at its first (or last) token."""
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        fitting = len(ends) if self.room is None else int(np.searchsorted(ends, self.room, side="right"))
        places = ends - 1 if last else ends - [len(piece) for piece in pieces]
        row = self.of(np.concatenate([np.empty(0, np.int64), *pieces[:fitting]]))
        return Words(row, len(self.before) + places[:fitting])


def joined(first: np.ndarray, second: np.ndarray, separator: int, room: int | None) -> np.ndarray:
    """Two texts' ids as one, with a separator between them; where they do not fit, the longer one is cut."""
    if room is not None and len(first) + len(second) + 1 > room:
        half = (room - 1) // 2
        first = first[: max(half, room - 1 - len(second))]
        second = second[: room - 1 - len(first)]
    return np.concatenate([first, [separator], second])


def encode_words(sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[list[np.ndarray]]:
    """Each word's ids, at least one, as they are in a text of words set apart by spaces.

    A word of which the tokenizer keeps nothing becomes its unknown token, or else its end-of-text.
    """
    spaced = tokenizer.encode("a b") == tokenizer.encode("a") + tokenizer.encode(" b")
    texts = [f" {word}" if spaced and place else word for words in sentences for place, word in enumerate(words)]
    nothing = np.array([tokenizer.end_id if tokenizer.unknown_id is None else tokenizer.unknown_id])
    encoded = iter([ids if len(ids) else nothing for ids in tokenizer.encode_batch(texts)])
    return [[next(encoded) for _ in words] for words in sentences]
