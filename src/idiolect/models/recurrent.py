"""Recurrent networks: Elman, LSTM and GRU.

Shapes: B rows, T positions, D width (of the embedding and of every layer), E width of a layer's input (here D),
G gates, V vocabulary, L layers, P vectors a layer remembers (1; LSTM 2: hidden, cell).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idiolect.models import fused
from idiolect.models.contract import Network, last_positions
from idiolect.models.layers import blank, positions_within
from idiolect.models.score import score
from idiolect.models.settings import RecurrentSettings

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
VECTORS = {"rnn": 1, "lstm": 2, "gru": 1}
"""What a layer of each kind remembers (P)."""


class Layer(nn.Module):
    """One recurrent layer; torch's fused kernels run it over a whole window.

    rnn   h_t = σ(W_ah h_{t-1} + W_ax x_t + b_a), σ = tanh or the logistic function (Elman 1990)
    lstm  i, f, g, o = W_x x_t + W_h h_{t-1} + b;  c_t = σ(f) c_{t-1} + σ(i) tanh(g);  h_t = σ(o) tanh(c_t)
          (Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000)
    gru   r, z, n: h_t = (1 - z) n + z h_{t-1} with n = tanh(W x_t + b + r (W_h h_{t-1} + b_h)) (Cho et al. 2014, in
          the variant of cuDNN, which needs b_h)
    """

    def __init__(self, kind: str, inputs: int, width: int, *, logistic: bool = False) -> None:
        super().__init__()
        D, G = width, GATES[kind]
        self.kind = kind
        self.logistic = logistic
        self.input = nn.Parameter(torch.empty(G * D, inputs))
        self.hidden = nn.Parameter(torch.empty(G * D, D))
        self.bias = nn.Parameter(torch.empty(G * D))
        self.hidden_bias = nn.Parameter(torch.empty(G * D)) if kind == "gru" else None

    def run(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, E], vectors [P, B, D] before it → outputs [B, T, D], vectors [P, B, D] after it."""
        if x.device.type != "cpu":
            return self.kernel(x, vectors)
        if self.kind == "lstm" and self.hidden.shape[1] % 2 == 0 and fused.multiplies(x, self.input):
            return fused.lstm(x, vectors, (self.input, self.hidden, self.bias))
        # under autocast torch's CPU kernel of the LSTM fails, and in bf16 it is ten times slower than in fp32
        with torch.autocast("cpu", enabled=False):
            return self.kernel(x.to(self.input.dtype), vectors)

    def kernel(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """As `run`, by torch's fused kernels, in the type of the weights."""
        second = torch.zeros_like(self.bias) if self.hidden_bias is None else self.hidden_bias
        weights = [self.input, self.hidden, self.bias, second]
        options = (True, 1, 0.0, torch.is_grad_enabled(), False, True)  # biases, layers, dropout, train, …, batch first
        if self.kind == "lstm":
            outputs, hidden, cell = torch.lstm(
                x, (vectors[:1].contiguous(), vectors[1:].contiguous()), weights, *options
            )
            return outputs, torch.cat((hidden, cell))
        if self.kind == "gru":
            return torch.gru(x, vectors, weights, *options)
        if not self.logistic:
            return torch.rnn_tanh(x, vectors, weights, *options)
        # The kernel knows only tanh. With g = 2 h - 1, σ(a) = (1 + tanh(a/2)) / 2 gives g_t = tanh(a_t / 2) where
        # a_t / 2 = (W_ah / 4) g_{t-1} + (W_ax / 2) x_t + (b_a + W_ah 1 / 2) / 2: the same network in g.
        weights[:3] = self.input / 2, self.hidden / 4, (self.bias + self.hidden.sum(1) / 2) / 2
        outputs, after = torch.rnn_tanh(x, 2 * vectors - 1, weights, *options)
        return (1 + outputs) / 2, (1 + after) / 2

    def trace(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, E], vectors [B, P, D] before it → outputs [B, T, D], vectors [B, T + 1, P, D] before and after
        each position.
        """
        outputs, after = self.run(x, vectors.transpose(0, 1).contiguous())
        T = x.shape[1]
        if T == 1:
            return outputs, torch.stack((vectors, after.transpose(0, 1)), dim=1)
        hidden = torch.cat((vectors[:, :1], outputs), dim=1)  # [B, T + 1, D]
        if self.kind != "lstm":
            return outputs, hidden[:, :, None]
        # The kernel keeps its cells to itself. All hidden vectors being known, so are all gates at once.
        gates = F.linear(x, self.input, self.bias) + F.linear(hidden[:, :-1], self.hidden)
        enter, forget, new, _ = gates.chunk(4, dim=-1)
        forget, new = forget.sigmoid(), enter.sigmoid() * new.tanh()
        cells = [vectors[:, 1]]
        for t in range(T):
            cells.append(torch.addcmul(new[:, t], forget[:, t], cells[-1]))
        return outputs, torch.stack((hidden, torch.stack(cells, dim=1)), dim=2)

    def advance(self, entering: Tensor, recurrent: Tensor, vectors: Tensor) -> Tensor:
        """One position whose products are made: vectors [P, B, D] before it → those after it.

        entering [B, G D] is W_x x + b; recurrent [B, G D] is W_h h, with b_h for a GRU.
        """
        if self.kind == "gru":
            D = vectors.shape[-1]
            reset, update = (entering[:, : 2 * D] + recurrent[:, : 2 * D]).sigmoid().chunk(2, dim=-1)
            new = torch.addcmul(entering[:, 2 * D :], reset, recurrent[:, 2 * D :]).tanh()
            return torch.lerp(new, vectors[0], update)[None]
        gates = entering + recurrent
        if self.kind == "rnn":
            return (gates.sigmoid() if self.logistic else gates.tanh())[None]
        enter, forget, new, show = gates.chunk(4, dim=-1)
        cell = torch.addcmul(enter.sigmoid() * new.tanh(), forget.sigmoid(), vectors[1])
        return torch.stack((show.sigmoid() * cell.tanh(), cell))


@dataclass
class RecurrentState:
    """The vectors of each row now, and those after every position of the last `step` call."""

    lengths: Tensor
    """int64 [B]."""
    begin: Tensor
    """Tokens each row had consumed before the last call, int64 [B]."""
    vectors: Tensor
    """[B, L, P, D]."""
    trail: Tensor
    """[B, T + 1, L, P, D]: before the last call, then after each of its positions."""

    def select(self, rows: Tensor) -> RecurrentState:
        """A new state whose row i is a copy of row rows[i]."""
        return RecurrentState(self.lengths[rows], self.begin[rows], self.vectors[rows], self.trail[rows])

    def put(self, rows: Tensor, other: RecurrentState) -> None:
        """Copies row i of `other` into slot rows[i]."""
        T = max(self.trail.shape[1], other.trail.shape[1])
        self.trail, theirs = (F.pad(trail, (0,) * 7 + (T - trail.shape[1],)) for trail in (self.trail, other.trail))
        self.trail[rows] = theirs
        self.vectors[rows] = other.vectors
        self.begin[rows] = other.begin
        self.lengths[rows] = other.lengths

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths` [B], each within the last `step` call."""
        self.lengths = lengths.to(self.lengths.device, torch.int64, copy=True)
        rows = torch.arange(len(lengths), device=self.lengths.device)
        self.vectors = self.trail[rows, self.lengths - self.begin]


class Recurrent(Network):
    """Embedding, recurrent layers, head: y_t = softmax(W_yh h_t + b_y); h_0 = 0."""

    settings: RecurrentSettings
    compiles = False
    """torch.compile would unroll the fused kernels into a graph as long as the window."""

    def __init__(self, settings: RecurrentSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.context = None
        self.embedding = nn.Embedding(vocabulary, settings.width)
        logistic, D = settings.kind == "rnn" and settings.nonlinearity == "logistic", settings.width
        self.layers = nn.ModuleList(Layer(settings.kind, D, D, logistic=logistic) for _ in range(settings.layers))
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.width, vocabulary)
        self.tie()

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place.

        Embedding normal with deviation 1, or 0.2 when it is the output matrix too (so that the first loss is about
        ln V); other matrices uniform within ±1/√D; biases 0, but those of the LSTM's forget gates as the settings say.
        """
        if name == "embedding.weight":
            weights.normal_(0.0, 0.2 if self.settings.tied else 1.0, generator=generator)
        elif name.endswith("bias"):
            weights.zero_()
            if self.settings.kind == "lstm" and name.startswith("layers"):
                D = self.settings.width
                weights[D : 2 * D] = self.settings.forget_bias
        else:
            bound = self.settings.width**-0.5
            weights.uniform_(-bound, bound, generator=generator)

    def body(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """ids [B, T] → hidden [B, T, D]. With segments [B, T] the state starts at zero where the segment changes."""
        if segments is not None:
            # each segment becomes a row of its own, so that the fused kernels can run over all of them at once
            positions = positions_within(segments)
            rows = (positions == 0).flatten().cumsum(0).view_as(ids) - 1
            apart = ids.new_zeros(int(rows[-1, -1]) + 1, int(positions.max()) + 1)
            apart[rows, positions] = ids
            return self.body(apart)[rows, positions]
        x = self.embedding(ids)
        before = x.new_zeros(VECTORS[self.settings.kind], len(ids), self.settings.width)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, _ = checkpoint(layer.run, x, before, use_reentrant=False)
            else:
                x, _ = layer.run(x, before)
            x = self.dropout(x)  # between layers, and before the head
        return x

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> RecurrentState:
        """h_0 = 0 for `batch` rows; any length fits."""
        assert source is None and source_lengths is None, "a recurrent model has no source"
        weight = self.embedding.weight
        vectors = weight.new_zeros(batch, len(self.layers), VECTORS[self.settings.kind], self.settings.width)
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return RecurrentState(zero, zero.clone(), vectors, vectors[:, None].clone())

    @torch.no_grad()
    def step(
        self, ids: Tensor, state: RecurrentState, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, RecurrentState]:
        """ids [B, T] → (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`; the state, advanced)."""
        lengths = None if lengths is None else lengths.to(ids.device)
        x, trails = self.embedding(blank(ids, lengths)), []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x, trail = layer.trace(x, state.vectors[:, i])
            x = self.dropout(x)
            trails.append(trail)
        state.begin, state.trail = state.lengths, torch.stack(trails, dim=2)
        state.truncate(state.lengths + (ids.shape[1] if lengths is None else lengths))
        return self.head(last_positions(x, lengths) if last else x), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | ids[b, :t]) in nats, [B, T]; column 0 and padding are 0."""
        return score(self, ids, lengths)
