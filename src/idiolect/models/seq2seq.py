"""A recurrent encoder and a recurrent decoder: between them one vector, or attention.

Shapes: B rows, T positions of the target, S positions of the source, E width of the embedding, D hidden width,
C width of an annotation (2 D; D of an encoder that reads one way), G gates, L layers, P vectors a layer remembers,
V vocabulary, F numbers of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idiolect.errors import UserError
from idiolect.models import fused
from idiolect.models.contract import Network, last_positions
from idiolect.models.layers import blank
from idiolect.models.recurrent import VECTORS, Layer, RecurrentState
from idiolect.models.score import score
from idiolect.models.settings import Seq2SeqSettings

NEVER = -1e9
"""The energy of padding: a weight of exactly 0 beside any real position."""


@dataclass
class Memory:
    """A source as the decoder knows it."""

    annotations: Tensor
    """[B, S, C]: what the encoder says of each position; without attention one for all of them, [B, 1, C]."""
    start: Tensor
    """[B, L, P, D]: the decoder's vectors before it has read anything."""
    keys: Tensor
    """[B, S, D]: U_a h_j, the half of each energy that does not depend on the decoder; empty without attention."""
    entering: Tensor
    """[B, S, G D]: what each annotation, read in full, adds to the gates; empty without attention."""
    mask: Tensor
    """[B, S]: 0, or `NEVER` where the source is padding; empty without attention."""

    def select(self, rows: Tensor) -> Memory:
        """A new memory whose row i is a copy of row rows[i]."""
        return Memory(*(part[rows] for part in vars(self).values()))

    def put(self, rows: Tensor, other: Memory) -> None:
        """Copies row i of `other` into slot rows[i]; sources of unequal length are padded."""
        S = max(self.annotations.shape[1], other.annotations.shape[1])
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if name != "start" and mine.numel() + theirs.numel():
                rest, fill = (0, 0) * (mine.dim() - 2), NEVER if name == "mask" else 0.0
                mine, theirs = (F.pad(part, (*rest, 0, S - part.shape[1]), value=fill) for part in (mine, theirs))
            mine = mine.clone()
            mine[rows] = theirs
            setattr(self, name, mine)


@dataclass
class Seq2SeqState(RecurrentState):
    """What the decoder remembers of the target, and the source."""

    memory: Memory

    def select(self, rows: Tensor) -> Seq2SeqState:
        """A new state whose row i is a copy of row rows[i]."""
        return Seq2SeqState(**vars(super().select(rows)), memory=self.memory.select(rows))

    def put(self, rows: Tensor, other: RecurrentState) -> None:
        """Copies row i of `other` into slot rows[i]."""
        assert isinstance(other, Seq2SeqState)
        super().put(rows, other)
        self.memory.put(rows, other.memory)


class Encoder(nn.Module):
    """Recurrent layers that read the source in one direction or both (Schuster and Paliwal 1997)."""

    def __init__(self, settings: Seq2SeqSettings) -> None:
        super().__init__()
        inputs = [settings.d_embedding, *[settings.d_annotation] * (settings.layers - 1)]
        backward = inputs if settings.bidirectional else []
        self.forwards = nn.ModuleList(Layer(settings.cell, width, settings.width) for width in inputs)
        self.backwards = nn.ModuleList(Layer(settings.cell, width, settings.width) for width in backward)
        self.dropout = nn.Dropout(settings.dropout)
        self.zeros = VECTORS[settings.cell], settings.width

    def forward(self, x: Tensor, lengths: Tensor, checkpointing: bool = False) -> Tensor:
        """x [B, S, E], lengths [B] → annotations [B, S, C]: of each position, as read from the left and the right.

        Both directions begin at a row's own first position, so that padding is read last, by neither.
        """
        index = torch.arange(x.shape[1], device=x.device)
        mirror = torch.where(index < lengths[:, None], lengths[:, None] - 1 - index, index)[..., None]
        before = x.new_zeros(self.zeros[0], len(x), self.zeros[1])
        for i, ahead in enumerate(self.forwards):
            assert isinstance(ahead, Layer)
            x = self.dropout(x) if i else x
            parts = [run(ahead, x, before, checkpointing)]
            if self.backwards:
                back = self.backwards[i]
                assert isinstance(back, Layer)
                y = run(back, x.gather(1, mirror.expand_as(x)), before, checkpointing)
                parts.append(y.gather(1, mirror.expand_as(y)))
            x = torch.cat(parts, dim=-1)
        return x


class Seq2Seq(Network):
    """p(target | source) by two recurrent networks over one embedding.

    The encoder turns a source of n positions into annotations h_1 … h_n. Its summary, h = [h→_n; h←_1], is the last
    vector of each direction. Layer l of the decoder begins with s_0 = tanh(W_l h + b_l) (LSTM: with cell 0), the first
    layer reads s_i = f(s_{i-1}, E y_{i-1}, c_i), each further one the layer below it, and
    p(y_i) = softmax(W tanh(R [E y_{i-1}; s_i; c_i] + b) + b'), s_i here of the last layer.

    Without attention c_i = h for every i: all the decoder knows of the source is that one vector, which it reads at
    each step, as in Cho et al. 2014 (arXiv 1406.1078, section 2.2; Sutskever et al. 2014, arXiv 1409.3215, have it
    only as s_0). With attention (Bahdanau et al. 2015, arXiv 1409.0473, eqs. 4 to 6 and appendix A.1.2):
    c_i = Σ_j α_ij h_j,  α_i = softmax(e_i),  e_ij = v · tanh(W_a s_{i-1} + U_a h_j), s of the first layer.
    The two differ in nothing else. Where the paper has a maxout layer before the output matrix (A.2.2) this has tanh,
    and s_0 knows both directions.
    """

    settings: Seq2SeqSettings
    compiles = False
    """torch.compile would unroll the recurrence into a graph as long as the window."""

    def __init__(self, settings: Seq2SeqSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.context = settings.context
        E, D, C = settings.d_embedding, settings.width, settings.d_annotation
        self.embedding = nn.Embedding(vocabulary, E)
        self.frames = nn.Linear(settings.source_features, E) if settings.source_features else None
        self.encoder = Encoder(settings)
        self.start = nn.Linear(C, settings.layers * D)
        self.layers = nn.ModuleList(Layer(settings.cell, D if i else E + C, D) for i in range(settings.layers))
        self.attention = Attention(D, C) if settings.attention == "bahdanau" else None
        self.readout = nn.Linear(E + D + C, E)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(E, vocabulary)
        self.tie()

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place.

        Embedding normal with deviation 1, or 0.2 when it is the output matrix too (so that the first loss is about
        ln V); other matrices uniform within ±1/√columns; biases 0, but those of the LSTM's forget gates 1.
        """
        if name == "embedding.weight":
            weights.normal_(0.0, 0.2 if self.settings.tied else 1.0, generator=generator)
        elif name.endswith("bias"):
            weights.zero_()
            if self.settings.cell == "lstm" and name.startswith(("layers", "encoder")):
                D = self.settings.width
                weights[D : 2 * D] = 1.0
        else:
            bound = weights.shape[-1] ** -0.5
            weights.uniform_(-bound, bound, generator=generator)

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """source int64 [B, S], or float [B, S, F] where it is frames; source_lengths [B] → what the decoder reads.

        Raises UserError when a source is longer than source_context.
        """
        B, S = source.shape[:2]
        if self.settings.source_context is not None and self.settings.source_context < S:
            what = f"a source of {S} positions is longer than source_context, {self.settings.source_context}"
            raise UserError(what, "shorten the source")
        lengths = torch.full((B,), S, device=source.device) if source_lengths is None else source_lengths
        lengths = lengths.to(source.device)
        if self.frames is None:
            x = self.embedding(blank(source, lengths))
        else:
            kind = self.frames.weight.dtype
            x = self.frames(source.to(kind)).to(kind)  # as an embedding would give, under autocast too
        annotations = self.encoder(self.dropout(x), lengths, self.activation_checkpointing)
        return self.remember(annotations, lengths)

    def remember(self, annotations: Tensor, lengths: Tensor) -> Memory:
        """annotations [B, S, C] of sources of lengths [B] → what the decoder reads."""
        B, S, _ = annotations.shape
        D, E = self.settings.width, self.settings.d_embedding
        last = last_positions(annotations[..., :D], lengths)[:, 0]
        summary = torch.cat((last, annotations[:, 0, D:]), dim=-1)
        start = self.start(summary).tanh().view(B, -1, 1, D).to(annotations.dtype)
        if VECTORS[self.settings.cell] == 2:
            start = torch.cat((start, torch.zeros_like(start)), dim=2)
        if self.attention is None:
            nothing = annotations.new_empty(B, 0)
            return Memory(summary[:, None], start, nothing, nothing, nothing)
        first = self.layers[0]
        assert isinstance(first, Layer)
        mask = annotations.new_zeros(B, S)
        mask.masked_fill_(torch.arange(S, device=mask.device) >= lengths[:, None], NEVER)
        entering = fused.affine(annotations, first.input[:, E:].contiguous())
        return Memory(annotations, start, fused.linear(self.attention.key, annotations), entering, mask)

    def body(self, ids: Tensor, source: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Target ids [B, T] and sources → hidden [B, T, E], which `head` turns into logits.

        Raises UserError when the target is longer than the context, or a source than source_context.
        """
        self.check(ids.shape[1])
        memory, y = self.encode(source, source_lengths), self.dropout(self.embedding(ids))
        vectors = memory.start.permute(1, 2, 0, 3).contiguous()  # [L, P, B, D]
        first, *others = self.layers
        assert isinstance(first, Layer)
        if self.attention is None:
            contexts = memory.annotations.expand(-1, y.shape[1], -1)
            x = run(first, torch.cat((y, contexts), dim=-1), vectors[0], self.activation_checkpointing)
        else:
            trail, weights = self.attend(y, vectors[0], memory)
            x, contexts = trail[0, :, 1:], weights @ memory.annotations
        for layer, before in zip(others, vectors[1:], strict=True):
            assert isinstance(layer, Layer)
            x = run(layer, self.dropout(x), before, self.activation_checkpointing)
        return self.dropout(self.read_out(y, x, contexts))

    def attend(self, y: Tensor, vectors: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The first layer under attention: y [B, T, E], its vectors [P, B, D] before → (vectors [P, B, T + 1, D]
        before and after each position, weights α [B, T, S]).

        Only what depends on s_{i-1} is left inside the loop: Σ_j α_ij (W h_j) takes the place of W Σ_j α_ij h_j.
        """
        layer, attention = self.layers[0], self.attention
        assert isinstance(layer, Layer) and attention is not None
        entering = fused.affine(y, layer.input[:, : y.shape[-1]].contiguous(), layer.bias)
        G_D, kind = layer.hidden.shape[0], layer.hidden.dtype
        # under autocast each of these small products would cast its weights anew
        with torch.autocast(y.device.type, enabled=False):
            both = torch.cat((layer.hidden, attention.query.weight))  # [G D + D, D]: what reads s_{i-1}
            bias = None if layer.hidden_bias is None else F.pad(layer.hidden_bias, (0, both.shape[1]))
            keys, values, vectors = memory.keys.to(kind), memory.entering.to(kind), vectors.to(kind)
            trail, weights = [vectors], []
            for now in entering.to(kind).unbind(1):
                products = F.linear(vectors[0], both, bias)
                energies = attention.energies(products[:, G_D:], keys)  # [B, S]
                weights.append((energies + memory.mask).softmax(-1))
                read = torch.bmm(weights[-1][:, None], values)[:, 0]
                vectors = layer.advance(now + read, products[:, :G_D], vectors)
                trail.append(vectors)
            return torch.stack(trail, dim=2), torch.stack(weights, dim=1)

    def read_out(self, y: Tensor, x: Tensor, contexts: Tensor) -> Tensor:
        """tanh(R [E y_{i-1}; s_i; c_i] + b): [B, T, E], [B, T, D], [B, T, C] → [B, T, E]."""
        return fused.linear(self.readout, torch.cat((y, x.to(y.dtype), contexts.to(y.dtype)), dim=-1)).tanh()

    def check(self, T: int) -> None:
        """Raises UserError when T tokens of a target are more than the context."""
        if self.settings.context < T:
            raise UserError(f"{T} tokens are more than the context of {self.settings.context}", "shorten the text")

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> Seq2SeqState:
        """The sources encoded, before any token of a target. Raises UserError when they or `length` are too long."""
        assert source is not None and len(source) == batch, "a sequence-to-sequence model has a source for each row"
        self.check(length)
        with torch.no_grad():
            memory = self.encode(source, source_lengths)
        zero = torch.zeros(batch, dtype=torch.int64, device=source.device)
        return Seq2SeqState(zero, zero.clone(), memory.start, memory.start[:, None].clone(), memory)

    @torch.no_grad()
    def step(
        self, ids: Tensor, state: Seq2SeqState, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, Seq2SeqState]:
        """ids [B, T] → (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`; the state, advanced)."""
        lengths = None if lengths is None else lengths.to(ids.device)
        y, memory = self.embedding(blank(ids, lengths)), state.memory
        first, *others = self.layers
        assert isinstance(first, Layer)
        if self.attention is None:
            contexts = memory.annotations.expand(-1, ids.shape[1], -1)
            x, trail = first.trace(torch.cat((y, contexts), dim=-1), state.vectors[:, 0])
        else:
            vectors, weights = self.attend(y, state.vectors[:, 0].transpose(0, 1), memory)
            x, trail, contexts = vectors[0, :, 1:], vectors.permute(1, 2, 0, 3), weights @ memory.annotations
        trails = [trail]
        for i, layer in enumerate(others, 1):
            assert isinstance(layer, Layer)
            x, trail = layer.trace(x, state.vectors[:, i])
            trails.append(trail)
        x = self.read_out(y, x, contexts)
        state.begin, state.trail = state.lengths, torch.stack(trails, dim=2)
        state.truncate(state.lengths + (ids.shape[1] if lengths is None else lengths))
        logits = self.head(last_positions(x, lengths) if last else x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), state

    def score(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
    ) -> Tensor:
        """log p(ids[b, t] | ids[b, :t], source[b]) in nats, [B, T]; column 0 and padding are 0."""
        return score(self, ids, lengths, source, source_lengths)

    @torch.no_grad()
    def alignments(self, ids: Tensor, source: Tensor) -> Tensor:
        """What the decoder read when it had read ids [T]: weights of the source's positions, [1, 1, T, S].

        Row t belongs to the token that follows ids[t]. Raises UserError for a model without attention.
        """
        if self.attention is None:
            raise UserError("this model has no attention: its decoder reads one vector", "use model.attention=bahdanau")
        memory = self.encode(source[None])
        _, weights = self.attend(self.embedding(ids[None]), memory.start[:, 0].transpose(0, 1), memory)
        return weights[None]


class Attention(nn.Module):
    """How well position j of the source answers s_{i-1}: e_ij = v · tanh(W_a s_{i-1} + U_a h_j) (appendix A.1.2)."""

    def __init__(self, D: int, C: int) -> None:
        super().__init__()
        self.query = nn.Linear(D, D, bias=False)
        self.key = nn.Linear(C, D, bias=False)
        self.energy = nn.Linear(D, 1, bias=False)

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """W_a s [B, D] and U_a h [B, S, D] → e [B, S]."""
        return self.energy((query[:, None] + keys).tanh())[..., 0]


def run(layer: Layer, x: Tensor, vectors: Tensor, checkpointing: bool) -> Tensor:
    """A layer over a whole window: x [B, T, E], vectors [P, B, D] before it → outputs [B, T, D]."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(layer.run, x, vectors, use_reentrant=False)[0]
    return layer.run(x, vectors)[0]
