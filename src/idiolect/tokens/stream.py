"""Text out of ids that come one by one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """What a stream asks of a tokenizer."""

    def bytes_of(self, id_: int) -> bytes | None:
        """The bytes of text one id stands for; None when that depends on its neighbours."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...


class TextStream:
    """Turns ids into text as they come, only whole characters at a time; all of it together is `decode(ids)`."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []  # since the last piece of text, that piece's own ids first
        self._told = 0  # how many of them were the last piece's

    def push(self, id_: int) -> str:
        """The text that became certain with this id; empty inside a character and for special ids."""
        stands_for = self._tokenizer.bytes_of(id_)
        if stands_for is not None:
            return self._bytes.decode(stands_for)
        self._ids.append(id_)
        text = self._since()
        if not text or text.endswith("\ufffd"):
            return ""
        self._ids, self._told = self._ids[self._told :], len(self._ids) - self._told
        return text

    def flush(self) -> str:
        """What was held back: the replacement character for a character that stays incomplete."""
        held = self._bytes.decode(b"", final=True) + self._since()
        self._bytes.reset()
        self._ids, self._told = [], 0
        return held

    def _since(self) -> str:
        """The text of the ids that came after the last piece of text, written as it is when it follows that piece."""
        before = self._tokenizer.decode(self._ids[: self._told])
        return self._tokenizer.decode(self._ids)[len(before) :]
