"""Self-contained fakes for tests, here and in other people's projects: a byte tokenizer and a ten-line model."""

from __future__ import annotations

from collections.abc import Sequence
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
