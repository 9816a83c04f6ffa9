"""Word vectors learnt from the words around them: CBOW and skip-gram, the two models of word2vec.

    CBOW       h = mean of u_c over the words c around a place;  p(w | the words around it) = softmax(V h)_w
    skip-gram  h = u_w;                                          p(c | w) = softmax(V h)_c for each c around w

u, the input vectors, are rows of `embedding`; the rows of V, the output vectors, those of `head`. Mikolov et al. 2013,
arXiv 1301.3781, section 3; with every gradient written out: Rong 2014, arXiv 1411.2738, sections 1.2, 2 and 3.2.
Negative sampling in place of the softmax: Mikolov et al. 2013, arXiv 1310.4546, eq. 4.

Both read what comes after a word to learn its vector, so they can fill a gap but cannot continue a text. With
`left_only` CBOW averages the last words alone; then it is a language model like any other: a log-bilinear one whose
words have no order.

Shapes: B rows, T positions, C words around a place, D width, V vocabulary, W window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect.models.contract import Network, last_positions
from idiolect.models.layers import blank
from idiolect.models.score import score
from idiolect.models.settings import CbowSettings

LOOKS_AHEAD = "looks into the future: a word's vector is learnt from the words after it as well as those before it"
NONE = -1
"""In a state, the id of a place before the text began."""


@dataclass
class Window:
    """The last words of each row, and those of the last `step` call."""

    lengths: Tensor
    """int64 [B]."""
    begin: Tensor
    """Words each row had read before the last call, int64 [B]."""
    ids: Tensor
    """int64 [B, W - 1 + T]: the W - 1 words before the last call (NONE before the text began), then the call's own."""

    def select(self, rows: Tensor) -> Window:
        """A new state whose row i is a copy of row rows[i]."""
        return Window(self.lengths[rows], self.begin[rows], self.ids[rows])

    def put(self, rows: Tensor, other: Window) -> None:
        """Copies row i of `other` into slot rows[i]."""
        width = max(self.ids.shape[1], other.ids.shape[1])
        self.ids, theirs = (F.pad(ids, (0, width - ids.shape[1]), value=NONE) for ids in (self.ids, other.ids))
        self.ids[rows] = theirs
        self.begin[rows] = other.begin
        self.lengths[rows] = other.lengths

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths` [B], each within the last `step` call."""
        self.lengths = lengths.to(self.lengths.device, torch.int64, copy=True)


class Cbow(Network):
    """Input vectors and output vectors; between them nothing but a mean."""

    settings: CbowSettings
    compiles = False
    """There is nothing between look-ups and a product that torch.compile could join."""

    def __init__(self, settings: CbowSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.context = None
        self.refusal = "" if settings.left_only else LOOKS_AHEAD
        self.embedding = nn.Embedding(vocabulary, settings.width)
        self.head = nn.Linear(settings.width, vocabulary, bias=False)

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place, as word2vec does: input vectors uniform in ±1/(2D), output ones 0."""
        if name == "embedding.weight":
            bound = 0.5 / self.settings.width
            weights.uniform_(-bound, bound, generator=generator)
        else:
            weights.zero_()

    def bag(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The mean of the input vectors of each row's words: ids [B, C], of which lengths [B] are real → [B, D].

        The sum over a row's words needs no [B, C, D]. A row without words gives 0.
        """
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        starts = lengths.cumsum(0) - lengths
        return F.embedding_bag(ids[real], self.embedding.weight, starts, mode="mean", sparse=self.embedding.sparse)

    def body(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """ids [B, T] → hidden [B, T, D], the mean over the words of the same segment (int64 [B, T]) around each place.

        With `left_only` those at t - W + 1 … t, for the word at t + 1; else those up to W before and after t, for the
        word at t. Where there are none it is 0.
        """
        W, T, x = self.settings.window, ids.shape[1], self.embedding(ids)
        offsets = range(1 - W, 1) if self.settings.left_only else [*range(-W, 0), *range(1, W + 1)]
        segments = torch.zeros_like(ids) if segments is None else segments
        total, count = torch.zeros_like(x), x.new_zeros(*ids.shape, 1)
        for offset in offsets:
            if abs(offset) >= T:
                continue
            here = slice(max(0, -offset), T - max(0, offset))
            there = slice(max(0, offset), T + min(0, offset))
            same = (segments[:, here] == segments[:, there])[..., None]
            total[:, here] += x[:, there] * same
            count[:, here] += same
        return total / count.clamp_min(1)

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> Window:
        """No words read yet; any length fits."""
        assert source is None and source_lengths is None, "a bag of words has no source"
        device = self.embedding.weight.device
        zero = torch.zeros(batch, dtype=torch.int64, device=device)
        return Window(zero, zero.clone(), torch.full((batch, self.settings.window - 1), NONE, device=device))

    @torch.no_grad()
    def step(
        self, ids: Tensor, state: Window, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, Window]:
        """ids [B, T] → (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`; the state, advanced)."""
        assert not self.refusal, "it cannot continue a text"
        lengths = None if lengths is None else lengths.to(ids.device)
        before = self.settings.window - 1
        columns = (state.lengths - state.begin)[:, None] + torch.arange(before, device=ids.device)
        words = torch.cat((state.ids.gather(1, columns), blank(ids, lengths)), dim=1)  # [B, W - 1 + T]
        hidden = self.body(words.clamp_min(0), (words == NONE).long())[:, before:]
        state.begin, state.ids = state.lengths, words
        state.truncate(state.lengths + (ids.shape[1] if lengths is None else lengths))
        return self.head(last_positions(hidden, lengths) if last else hidden), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | the W ids before it) in nats, [B, T]; column 0 and padding are 0."""
        assert not self.refusal, "it cannot continue a text"
        return score(self, ids, lengths)
