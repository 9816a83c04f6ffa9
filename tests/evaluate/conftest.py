"""A language model whose probabilities are written down, and documents in memory."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from idiolect.data import shards
from idiolect.testing import ByteTokenizer


class Written:
    """p(next | last two ids) by a function of them; counts the rows it is asked."""

    normalised = True
    context = None
    vocabulary = 258

    def __init__(self, p, context=None, **settings):
        self.p, self.context, self.settings = p, context, SimpleNamespace(kind="written", **settings)
        self.widest = 0

    def score(self, ids, lengths):
        out = torch.zeros(ids.shape, dtype=torch.float64)
        self.widest = max(self.widest, ids.shape[1] - 1)
        for row, length in enumerate(lengths.tolist()):
            for t in range(1, length):
                before = [int(i) for i in ids[row, max(0, t - 2) : t]]
                out[row, t] = torch.tensor(self.p(before, int(ids[row, t])), dtype=torch.float64).log()
        return out


@dataclass(frozen=True)
class Part:
    text: str
    last: bool = True


class Memory(list):
    """Texts as a corpus."""

    fingerprint = "memory"

    def __iter__(self):
        return (Part(text) for text in super().__iter__())


@pytest.fixture
def written():
    return Written


@pytest.fixture
def tokenizer():
    return ByteTokenizer()


@pytest.fixture
def encode(tmp_path, tokenizer):
    """Texts → Shards."""
    number = iter(range(1000))

    def shards_of(*texts):
        return shards.encode(Memory(texts), tokenizer, cache=tmp_path / str(next(number)))

    return shards_of
