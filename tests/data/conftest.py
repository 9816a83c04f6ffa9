"""A corpus in memory and a tokenizer that counts what it is asked."""

from dataclasses import dataclass, field

import pytest

from idiolect.data import shards
from idiolect.testing import ByteTokenizer


@dataclass(frozen=True)
class Part:
    text: str
    last: bool = True


@dataclass
class Memory:
    """Documents; a tuple is one document that arrives in parts."""

    documents: list
    fingerprint: str = "memory"

    def __iter__(self):
        for document in self.documents:
            parts = document if isinstance(document, tuple) else (document,)
            for i, text in enumerate(parts):
                yield Part(text, last=i == len(parts) - 1)


@dataclass
class Counting(ByteTokenizer):
    """Bytes as ids, and the texts that were encoded."""

    seen: list = field(default_factory=list)

    def encode_batch(self, texts):
        self.seen.extend(texts)
        return super().encode_batch(texts)


@pytest.fixture
def memory():
    return Memory


@pytest.fixture
def tokenizer():
    return Counting()


@pytest.fixture
def small_parts(monkeypatch):
    """A part every hundred characters or so."""
    monkeypatch.setattr(shards, "PART_SIZE", 100)
    monkeypatch.setattr(shards, "EACH_DOCUMENT", 1)


@pytest.fixture
def encode(tmp_path, memory, tokenizer):
    """Documents → Shards."""
    return lambda documents, **options: shards.encode(memory(documents), tokenizer, cache=tmp_path, **options)
