"""N-gram language models: counts of token sequences behind the one `LanguageModel` contract.

Shapes: B rows, T positions, V vocabulary. Everything runs on the CPU in numpy; logits are log-probabilities, float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from idiolect.errors import UserError
from idiolect.models.ngram_counting import Documents, Stream, count
from idiolect.models.ngram_counts import NONE, Symbols, Trie
from idiolect.models.ngram_smoothing import SMOOTHING, BackoffTable, Weights
from idiolect.models.settings import NGramSettings
from idiolect.models.suffix import SuffixTable


@dataclass
class NGramState:
    """The tokens each row has read: those before the last call, then that call's own."""

    tokens: Tensor
    """int64 [B, before + T], NONE where nothing was read; the call's tokens begin at column `before` in every row."""
    before: int
    """Columns that hold what was read before the last call, right-aligned."""
    start: Tensor
    """Tokens each row had consumed before the last call, int64 [B]."""
    lengths: Tensor
    """Tokens each row has consumed, int64 [B]."""
    window: int | None
    """How many tokens back the model looks; None: without limit."""

    def select(self, rows: Tensor) -> NGramState:
        """A new state whose row i is a copy of row rows[i]."""
        return NGramState(self.tokens[rows], self.before, self.start[rows], self.lengths[rows], self.window)

    def put(self, rows: Tensor, other: NGramState) -> None:
        """Copies row i of `other` into slot rows[i], in place."""
        before = max(self.before, other.before)
        after = max(s.tokens.shape[1] - s.before for s in (self, other))
        self.tokens, theirs = self._aligned(before, after), other._aligned(before, after)
        self.before = before
        self.tokens[rows], self.start[rows], self.lengths[rows] = theirs, other.start, other.lengths

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths`, which lie within the last `step` call, in place."""
        self.lengths = lengths.clone()

    def read(self, ids: Tensor, lengths: Tensor | None) -> None:
        """Appends ids [B, T], of which row b's first lengths[b] count, in place."""
        longest = int(self.lengths.max()) if len(self.lengths) else 0
        back = longest if self.window is None else min(self.window, longest)
        ends = self.before + self.lengths - self.start
        columns = ends[:, None] + torch.arange(-back, 0)
        kept = torch.where(columns >= 0, self.tokens.gather(1, columns.clamp_min(0)), NONE)
        self.tokens, self.before, self.start = torch.cat([kept, ids], 1), back, self.lengths
        self.lengths = self.lengths + (ids.shape[1] if lengths is None else lengths)

    def _aligned(self, before: int, after: int) -> Tensor:
        return pad(self.tokens, (before - self.before, after - (self.tokens.shape[1] - self.before)), value=NONE)


class NGram:
    """p(next token | the last order - 1 tokens, or all of them for `infinite`), from counts.

    Sequences never reach across documents: begin-of-text is the first token of a context (KenLM's <s>), end-of-text a
    token to predict (</s>). Padding never has probability. Without smoothing (mle) an unseen context scores -inf
    everywhere.
    """

    context: int | None = None

    def __init__(
        self, settings: NGramSettings, vocabulary: int, *, begin_id: int, end_id: int, pad_id: int | None
    ) -> None:
        self.settings = settings
        self.vocabulary = vocabulary
        self.symbols = Symbols(vocabulary, begin_id, end_id, pad_id)
        self.counts: list[np.ndarray] | None = None
        self._table: BackoffTable | SuffixTable | None = None

    @property
    def normalised(self) -> bool:
        """False for stupid backoff, whose scores are no probabilities."""
        return self.settings.smoothing != "stupid-backoff"

    @property
    def table(self) -> BackoffTable | SuffixTable:
        """What answers; ValueError before `fit`."""
        if self._table is None:
            raise ValueError("this n-gram model has counted nothing yet: call fit first")
        return self._table

    @property
    def _counted(self) -> BackoffTable:
        return self.table.shorter if isinstance(self.table, SuffixTable) else self.table

    def fit(self, documents: Documents) -> Self:
        """Counts `documents`, replacing whatever was counted before. UserError when they hold no token."""
        if self.settings.smoothing == "arpa":
            raise UserError('smoothing "arpa" is not learnt from text', 'import an ARPA file, or use "kneser-ney"')
        if not len(documents.ids):
            raise UserError("there is no text to count", "give at least one document with text")
        stream = Stream(documents, self.symbols)
        trie, self.counts = count(stream, self.settings.order)
        table = BackoffTable(trie, SMOOTHING[self.settings.smoothing](trie, self.counts, self.settings))
        infinite = self.settings.smoothing == "infinite"
        self._table = SuffixTable.build(stream, table, self.counts, self.settings.strength) if infinite else table
        return self

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> NGramState:
        """The state of `batch` rows before any token."""
        window = None if self.settings.smoothing == "infinite" else self.settings.order - 1
        none = torch.zeros(batch, dtype=torch.int64)
        return NGramState(torch.empty(batch, 0, dtype=torch.int64), 0, none, none.clone(), window)

    def step(
        self, ids: Tensor, state: NGramState, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, NGramState]:
        """Reads ids [B, T] → (log-probabilities [B, T or 1, V], state)."""
        B, T = ids.shape
        state.read(ids.cpu(), None if lengths is None else lengths.cpu())
        if last:
            rows = np.arange(B)
            columns = (state.before + (state.lengths - state.start - 1).clamp_min(0)).numpy()
        else:
            rows, columns = np.divmod(np.arange(B * T), T)
            columns += state.before
        logs = self.table.distributions(state.tokens.numpy(), rows, columns)
        return torch.from_numpy(logs).view(B, -1, self.vocabulary).to(ids.device), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | ids[b, :t]) in nats, float64 [B, T]; column 0 and padding are 0."""
        real = torch.ones(ids.shape, dtype=torch.bool)
        if lengths is not None:
            real = torch.arange(ids.shape[1]) < lengths.cpu()[:, None]
        rows = pad(torch.where(real, ids.cpu(), NONE), (1, 0), value=NONE)[pad(real, (1, 0), value=True)]
        logs = self.table.score(rows.numpy()[None])[0]  # all rows in one, without padding, with NONE before each
        out = torch.zeros(ids.shape, dtype=torch.float64)
        out[real] = torch.from_numpy(logs)[rows != NONE]
        out[:, 0] = 0
        return out.to(ids.device)

    def fractions(self, context: Sequence[int]) -> dict[int, Fraction]:
        """The exact relative frequency of every token seen after the last order - 1 tokens of `context`.

        UserError after a context that never occurred.
        """
        if self.counts is None:
            raise UserError("a model read from an ARPA file has no counts", "fit one to text")
        trie = self._counted.trie
        tokens = np.array([list(context)[max(0, len(context) - trie.order + 1) :]], dtype=np.int64)
        boundary = np.flatnonzero(self.symbols.boundary(tokens[0]))
        tokens = tokens[:, boundary[-1] :] if len(boundary) else tokens
        order = tokens.shape[1] + 1
        if order == 1:
            seen, times = np.flatnonzero(self.counts[0]), self.counts[0][self.counts[0] > 0]
        else:
            *_, (_, nodes) = islice(trie.walk(tokens), order - 1)
            at = self.symbols.as_context(order - 1, nodes, tokens)[0, -1:]
            _, children = trie.followers(order, at[at >= 0])
            seen, times = trie.split(order)[1][children], self.counts[order - 1][children]
        if not len(seen):
            raise UserError("this context never occurred in the text", "use a smoothing other than mle, or shorten it")
        total = int(times.sum())
        return {int(token): Fraction(int(n), total) for token, n in zip(seen, times)}

    def tensors(self) -> dict[str, Tensor]:
        """All that was learnt, by name, for storage; the smoothing is computed again from the counts."""
        table = self._counted
        arrays = {f"keys.{order}": keys for order, keys in enumerate(table.trie.keys, start=2)}
        if self.counts is None:
            arrays |= {f"scores.{order}": scores for order, scores in enumerate(table.weights.scores, start=1)}
            arrays |= {f"backoffs.{order}": weights for order, weights in enumerate(table.weights.backoffs, start=1)}
        else:
            arrays |= {f"counts.{order}": counts for order, counts in enumerate(self.counts, start=1)}
        if isinstance(self.table, SuffixTable):
            arrays["followers"] = self.table.followers
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    @classmethod
    def from_tensors(
        cls,
        settings: NGramSettings,
        vocabulary: int,
        tensors: Mapping[str, Tensor],
        *,
        begin_id: int,
        end_id: int,
        pad_id: int | None,
    ) -> NGram:
        """The model whose `tensors()` these are. Raises KeyError or ValueError when they are not whole."""
        model = cls(settings, vocabulary, begin_id=begin_id, end_id=end_id, pad_id=pad_id)
        trie = Trie(model.symbols, tuple(_stored(tensors, f"keys.{k}", np.int64) for k in range(2, settings.order + 1)))
        trie.check()
        sizes = [trie.nodes(order) for order in range(1, settings.order + 1)]
        if settings.smoothing == "arpa":
            weights = Weights(
                tuple(_stored(tensors, f"scores.{k}", np.float64, n) for k, n in enumerate(sizes, start=1)),
                tuple(_stored(tensors, f"backoffs.{k}", np.float64, n) for k, n in enumerate(sizes[:-1], start=1)),
            )
        else:
            model.counts = [_stored(tensors, f"counts.{k}", np.int64, n) for k, n in enumerate(sizes, start=1)]
            weights = SMOOTHING[settings.smoothing](trie, model.counts, settings)
        model._table = table = BackoffTable(trie, weights)
        if settings.smoothing == "infinite" and model.counts is not None:
            followers = _stored(tensors, "followers", np.int32, int(model.counts[0].sum()) + 1)
            model._table = SuffixTable(followers, table, model.counts, settings.strength)
        return model


def _stored(tensors: Mapping[str, Tensor], name: str, kind: type, size: int | None = None) -> np.ndarray:
    """One stored tensor as an array. KeyError when it is missing, ValueError when it is not of that type and size."""
    array = tensors[name].numpy()
    if array.dtype != kind or array.ndim != 1 or (size is not None and len(array) != size):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {np.dtype(kind)} [{size or 'n'}]")
    return array
