"""Self-contained fakes for tests, here and in other people's projects: two tokenizers and two small models."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from idiolect.config import Settings


class ByteTokenizer:
    """UTF-8 bytes as ids 2..257; 0 ends a text, 1 pads."""

    kind = "byte"
    lossless = True
    loses: tuple[str, ...] = ()
    size = 258
    end_id = begin_id = 0
    pad_id = 1
    unknown_id = None
    fingerprint = "testing-bytes"

    def encode(self, text: str) -> list[int]:
        """One id a byte."""
        return [byte + 2 for byte in text.encode("utf-8")]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text's ids."""
        return [np.array(self.encode(text), dtype=np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special ids are left out."""
        return bytes(i - 2 for i in ids if i >= 2).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as text of its own."""
        return [self.decode([i]) for i in ids]

    def normalise(self, text: str) -> str:
        """What decode(encode(text)) gives."""
        return text

    def token_bytes(self) -> np.ndarray:
        """Bytes of text each id stands for, int64 [V]."""
        return np.array([0, 0] + [1] * 256)

    def stream(self) -> ByteStream:
        """Ids to text, one by one."""
        return ByteStream()


class ByteStream:
    """Text as its bytes arrive: whole characters only."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id_: int) -> str:
        """The characters that this id completes."""
        return self._decoder.decode(bytes([id_ - 2])) if id_ >= 2 else ""

    def flush(self) -> str:
        """What is left of an incomplete character."""
        return self._decoder.decode(b"", final=True)


class WordTokenizer:
    """A closed list of words as ids 2, 3, …; 0 ends a text, 1 pads. Texts are words with single spaces between."""

    kind = "word"
    lossless = False
    loses: tuple[str, ...] = ("whitespace",)
    end_id = begin_id = 0
    pad_id = 1
    unknown_id = None
    fingerprint = "testing-words"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = ["", "", *words]
        self.size = len(self.words)

    def encode(self, text: str) -> list[int]:
        """One id a word. Raises ValueError for a word that is not in the list."""
        return [self.words.index(word, 2) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special ids are left out."""
        return " ".join(self.words[i] for i in ids if i >= 2)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as text of its own."""
        return [self.words[i] for i in ids]

    def stream(self) -> WordStream:
        """Ids to text, one by one."""
        return WordStream(self)


class WordStream:
    """Text as its words arrive: a space before each but the first."""

    def __init__(self, tokenizer: WordTokenizer) -> None:
        self._tokenizer = tokenizer
        self._gap = ""

    def push(self, id_: int) -> str:
        """The word, with the space that separates it from the one before."""
        if id_ < 2:
            return ""
        gap, self._gap = self._gap, " "
        return gap + self._tokenizer.words[id_]

    def flush(self) -> str:
        """Nothing is ever held back."""
        return ""


class TinySettings(Settings):
    """Settings of TinyModel."""

    kind: str = "tiny"
    """The family."""


@dataclass
class TinyState:
    """TinyModel remembers only how much it has read."""

    lengths: Tensor

    def select(self, rows: Tensor) -> TinyState:
        """Copies of the given rows."""
        return TinyState(self.lengths[rows].clone())

    def put(self, rows: Tensor, other: TinyState) -> None:
        """Fills slots."""
        self.lengths[rows] = other.lengths

    def truncate(self, lengths: Tensor) -> None:
        """Goes back."""
        self.lengths = lengths.clone()


class TinyModel(nn.Module):
    """The smallest neural language model: p(next | last token) from an embedding and a linear head."""

    normalised = True
    context = None

    def __init__(self, vocabulary: int = 258, width: int = 7, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.settings = TinySettings()
        self.vocabulary = vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary, width)
            self.head = nn.Linear(width, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def body(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """ids [B, T] → hidden [B, T, D]."""
        return self.dropout(self.embedding(ids))

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> TinyState:
        """Nothing read yet."""
        return TinyState(torch.zeros(batch, dtype=torch.int64))

    def step(
        self, ids: Tensor, state: TinyState, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, TinyState]:
        """ids [B, T] → logits [B, T or 1, V]."""
        hidden = self.body(ids)
        read = torch.full((len(ids),), ids.shape[1]) if lengths is None else lengths
        state.lengths = state.lengths + read
        if last:
            hidden = hidden[torch.arange(len(ids)), (read - 1).clamp_min(0)].unsqueeze(1)
        return self.head(hidden), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | ids[b, t - 1]), [B, T]; column 0 and padding are 0."""
        logs = torch.log_softmax(self.head(self.body(ids[:, :-1])).float(), -1)
        out = torch.zeros(ids.shape)
        out[:, 1:] = logs.gather(-1, ids[:, 1:, None]).squeeze(-1)
        if lengths is not None:
            out[torch.arange(ids.shape[1])[None] >= lengths[:, None]] = 0
        return out.detach()


@dataclass
class TableState:
    """TableModel remembers everything it has read."""

    read: list[tuple[int, ...]]

    @property
    def lengths(self) -> Tensor:
        """Ids read, int64 [B]."""
        return torch.tensor([len(ids) for ids in self.read])

    def select(self, rows: Tensor) -> TableState:
        """Copies of the given rows."""
        return TableState([self.read[row] for row in rows.tolist()])

    def put(self, rows: Tensor, other: TableState) -> None:
        """Fills slots."""
        for row, ids in zip(rows.tolist(), other.read, strict=True):
            self.read[row] = ids

    def truncate(self, lengths: Tensor) -> None:
        """Goes back."""
        self.read = [ids[:length] for ids, length in zip(self.read, lengths.tolist(), strict=True)]


class TableModel:
    """A language model whose answers are known: p(next id | what was read) stands in a table.

    The row of the longest listed ending of what was read counts; where none is listed (not even the empty one, ()),
    no next id is possible. `table[(0, 3)] = {2: 0.25, 0: 0.75}`: after 0 3, id 2 has probability 1/4 and 0 has 3/4.
    """

    normalised = True

    def __init__(
        self, vocabulary: int, table: Mapping[tuple[int, ...], Mapping[int, float]], context: int | None = None
    ) -> None:
        self.settings = TinySettings(kind="table")
        self.vocabulary = vocabulary
        self.context = context
        self.calls: list[tuple[int, int]] = []
        """Rows and positions of each call of `step`."""
        self._rows: dict[tuple[int, ...], Tensor] = {}
        for ending, probabilities in table.items():
            row = torch.zeros(vocabulary, dtype=torch.float64)
            row[list(probabilities)] = torch.tensor(list(probabilities.values()), dtype=torch.float64)
            self._rows[ending] = row.log()
        self._longest = max(map(len, table))
        self._unseen = torch.full((vocabulary,), -torch.inf, dtype=torch.float64)

    def after(self, ids: Sequence[int]) -> Tensor:
        """log p(next id | ids), [V]."""
        for length in range(min(self._longest, len(ids)), -1, -1):
            row = self._rows.get(tuple(ids[len(ids) - length :]))
            if row is not None:
                return row
        return self._unseen

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> TableState:
        """Nothing read yet."""
        return TableState([()] * batch)

    def step(
        self, ids: Tensor, state: TableState, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, TableState]:
        """ids [B, T] → logits [B, T or 1, V]."""
        self.calls.append((ids.shape[0], ids.shape[1]))
        ends = [ids.shape[1]] * len(ids) if lengths is None else lengths.tolist()
        before = state.read
        state.read = [old + tuple(row[:end]) for old, row, end in zip(before, ids.tolist(), ends, strict=True)]
        if last:
            return torch.stack([self.after(row) for row in state.read]).unsqueeze(1), state
        places = range(1, ids.shape[1] + 1)
        rows = [
            torch.stack([self.after(old + tuple(row[:t])) for t in places])
            for old, row in zip(before, ids.tolist(), strict=True)
        ]
        return torch.stack(rows), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | ids[b, :t]), [B, T]; column 0 and padding are 0."""
        out = torch.zeros(ids.shape, dtype=torch.float64)
        ends = [ids.shape[1]] * len(ids) if lengths is None else lengths.tolist()
        for b, row in enumerate(ids.tolist()):
            for t in range(1, ends[b]):
                out[b, t] = self.after(row[:t])[row[t]]
        return out
