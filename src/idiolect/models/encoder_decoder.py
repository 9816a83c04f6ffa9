"""One transformer with an encoder and a decoder, whose settings cover the 2017 and the T5 styles.

Shapes: B rows, T positions of the target, S of the source, D width, V vocabulary, L layers of the decoder, H query
heads, K key/value heads, d head width, F numbers of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idiolect.errors import UserError
from idiolect.models import layers
from idiolect.models.contract import Network, last_positions
from idiolect.models.decoder import BLOCK, KeyValues, empty_cache
from idiolect.models.encoder import Encoder
from idiolect.models.score import score
from idiolect.models.settings import EncoderDecoderSettings, EncoderSideSettings
from idiolect.models.sides import CrossBlock, Reads, Side, Source, joined, within


@dataclass
class SourceState:
    """What a decoder remembers: of the target what every decoder does, and each layer's keys and values of the source.

    Rows of a select share nothing with those they were copied from.
    """

    target: KeyValues
    source: list[tuple[Tensor, Tensor]]
    """A layer's keys and values, [B, K, S, d] each; those at or past `source_lengths` are never read."""
    source_lengths: Tensor
    """int64 [B], none below 1."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of the target that each row has consumed, int64 [B]."""
        return self.target.lengths

    def select(self, rows: Tensor) -> SourceState:
        """A new state whose row i is a copy of row rows[i]."""
        source = [(k[rows], v[rows]) for k, v in self.source]
        return SourceState(self.target.select(rows), source, self.source_lengths[rows])

    def put(self, rows: Tensor, other: SourceState) -> None:
        """Copies row i of `other` into slot rows[i]. Raises ValueError when its target does not fit."""
        self.target.put(rows, other.target)
        S, theirs = self.source[0][0].shape[2], other.source[0][0].shape[2]
        for layer, given in enumerate(other.source):
            mine = [F.pad(x, (0, 0, 0, max(0, theirs - S))) for x in self.source[layer]]
            for x, y in zip(mine, given):
                x[rows, :, :theirs] = y.to(x.dtype)
            self.source[layer] = mine[0], mine[1]
        self.source_lengths[rows] = other.source_lengths

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths` [B] of the target, in place."""
        self.target.truncate(lengths)


class EncoderDecoder(Network):
    """A transformer that reads a source whole and then writes a target (Vaswani et al. 2017; Raffel et al. 2020, T5).

    While training, dropout acts on embeddings and on what each sublayer adds, as section 5.4 of the former has it, not
    on the weights of attention, which the fused kernel never holds.
    """

    settings: EncoderDecoderSettings
    token_parts: tuple[str, ...] = ("decoder", "head")
    prompt: nn.Parameter | None
    """[n, D] before every source, where `adapt` puts one there."""

    def __init__(self, settings: EncoderDecoderSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.context = settings.context
        self.embedding = nn.Embedding(vocabulary, settings.width)
        """Of the target, and of the source where they share one."""
        self.register_parameter("prompt", None)
        self.encoder = encoder_of(settings, vocabulary)
        if settings.encoder is not None or not settings.shared_embedding:
            self.token_parts = (*self.token_parts, "embedding")
        self.decoder = Side(settings, True, settings.layers)
        self.head = nn.Linear(settings.width, vocabulary, bias=False)
        self.tie()

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place, as T5's code does.

        Matrices normal with variance 1 / inputs, those of queries 1 / (inputs · d) where scores are not divided by √d;
        biases of distances 1 / D; embeddings 1 where the head is divided by √D, else 1 / D; norms 1; biases 0.
        """
        s, module = self.settings, name.rpartition(".")[0]
        if isinstance(self.encoder, Encoder) and name.startswith("encoder."):
            self.encoder.initialise(name.removeprefix("encoder."), weights, generator)
        elif name.endswith("bias"):
            weights.zero_()
        elif module.endswith(("norm", "norm_after")):
            weights.fill_(1.0)
        else:
            variance = 1 / (s.width if module.endswith("relative") else weights.shape[1])
            if module.endswith("embedding") and s.scaled_head and not s.scaled_embedding:
                variance = 1.0
            if module.endswith(".query") and not s.scaled_scores:
                variance /= s.d_head
            weights.normal_(0.0, variance**0.5, generator=generator)

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """source, int64 ids [B, S] or frames [B, S, F] → memory [B, S, D]; what is past its lengths means nothing.

        With a soft prompt of n the memory has n more positions, the first. An empty source is one position of padding.
        Raises UserError when S is more than the source's context.
        """
        most, side = self.longest_source, self.encoder
        if most is not None and most < source.shape[1]:
            what = f"{source.shape[1]} positions of source are more than the context of {most}"
            raise UserError(what, "shorten the source")
        source = blanked(source if source.dim() == 2 else source.to(self.embedding.weight.dtype), source_lengths)
        lengths = self._readable(source_lengths)
        if isinstance(side, Encoder):
            side.activation_checkpointing = self.activation_checkpointing
            return side.body(source, lengths)
        embed = side.projection or side.embedding or self.embedding
        x = layers.prompted(self.prompt, embed(source))
        x = side.placed(x, torch.arange(x.shape[1], device=source.device))
        reads = side.reads(x, lengths)
        for block in side.blocks:
            x = self._run(block, x, reads.rope, reads.mask, False, None, None, reads.lengths, reads.bias)
        memory: Tensor = side.norm(x)
        return memory

    @property
    def before(self) -> int:
        """Positions of the soft prompt before every source."""
        return 0 if self.prompt is None else len(self.prompt)

    @property
    def longest_source(self) -> int | None:
        """Positions that a source can have; None: no limit."""
        most: int | None = self.settings.longest_source
        return None if most is None else most - self.before

    def _readable(self, lengths: Tensor | None) -> Tensor | None:
        """The lengths of sources once they are `blanked`, with the soft prompt before them."""
        return None if lengths is None else lengths.clamp_min(1) + self.before

    def _run(self, block: nn.Module, x: Tensor, *given: Any) -> Tensor:
        """A block's result, kept or computed again in the backward pass."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x, *given, use_reentrant=False)
            return again
        once: Tensor = block(x, *given)
        return once

    def body(self, ids: Tensor, source: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """ids [B, T], source [B, S] or [B, S, F] → hidden [B, T, D], which `head` turns into logits.

        Raises UserError when either is longer than its context.
        """
        T = ids.shape[1]
        if self.settings.context < T:
            raise UserError(f"{T} tokens are more than the context of {self.settings.context}", "shorten the target")
        memory = self.encode(source, source_lengths)
        x = self.decoder.placed(self.embedding(ids), torch.arange(T, device=ids.device))
        reads, of = self.decoder.reads(x), self._of_source(x, self._readable(source_lengths), memory.shape[1])
        for block in self.decoder.blocks:
            assert isinstance(block, CrossBlock)
            x = self._run(block, x, reads, Source(*block.cross.remember(memory), of))
        return self._end(x)

    def _of_source(self, x: Tensor, lengths: Tensor | None, S: int) -> Reads:
        """What queries made of x read of a source of S positions: those within its lengths [B]."""
        if self.decoder.fuses(x):
            return Reads(lengths=None if lengths is None else lengths.int())
        return Reads(mask=within(lengths, S))

    def _end(self, x: Tensor) -> Tensor:
        """x [B, T, D] of the last block → hidden [B, T, D]."""
        hidden: Tensor = self.decoder.norm(x)
        return hidden * self.settings.width**-0.5 if self.settings.scaled_head else hidden

    @torch.no_grad()
    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> SourceState:
        """An empty cache of `batch` rows for `length` tokens, and the source [batch, S] (or [batch, S, F]) encoded.

        Raises UserError when either is longer than its context.
        """
        assert source is not None and len(source) == batch, "an encoder-decoder needs a source for each row"
        if length > self.settings.context:
            raise UserError(f"{length} tokens are more than the context of {self.settings.context}", "ask for fewer")
        memory, lengths = self.encode(source, source_lengths), self._readable(source_lengths)
        remembered = [block.cross.remember(memory) for block in self.decoder.blocks if isinstance(block, CrossBlock)]
        if lengths is None:
            lengths = torch.full((batch,), memory.shape[1], device=memory.device)
        cache = empty_cache(self.settings, batch, length, self.embedding.weight)
        return SourceState(cache, remembered, lengths)

    @torch.no_grad()
    def step(
        self, ids: Tensor, state: SourceState, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, SourceState]:
        """ids [B, T] → (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`; the state, advanced).

        Raises ValueError when the tokens do not fit into the state.
        """
        (B, T), target, side = ids.shape, state.target, self.decoder
        lengths = None if lengths is None else lengths.to(ids.device)
        target.grow(T, lengths)
        positions = target.lengths[:, None] + torch.arange(T, device=ids.device)  # [B, T]
        slots, rows = positions.clamp(max=target.capacity), torch.arange(B, device=ids.device)[:, None]
        read = min(target.capacity, -(-target.used // BLOCK) * BLOCK)
        index = torch.arange(read, device=ids.device)
        x = side.placed(self.embedding(layers.blank(ids, lengths)), positions)
        bias = None if side.relative is None else side.relative(positions, index)  # [B, H, T, S]
        mask = joined(bias, layers.reach(positions, index, None)[:, None])
        reads = Reads(mask=mask, rope=side.rope(positions))
        of = self._of_source(x, state.source_lengths, state.source[0][0].shape[2])
        for layer, block in enumerate(side.blocks):
            keys, values = target.keys[layer], target.values[layer]

            def cache(k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                keys[rows, :, slots] = k.transpose(1, 2).to(keys.dtype)
                values[rows, :, slots] = v.transpose(1, 2).to(values.dtype)
                return keys[:, :, :read].to(k.dtype), values[:, :, :read].to(v.dtype)

            x = block(x, reads, Source(*state.source[layer], of), cache)
        if last:
            x = last_positions(x, lengths)
        target.lengths = target.lengths + (T if lengths is None else lengths)
        logits = self.head(self._end(x))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), state

    def alignments(self, ids: Tensor, source: Tensor) -> Tensor:
        """What the target's ids [T] read of source [S] (or [S, F]) in each layer and head: [L, H, T, S]."""
        return attention_maps(self, ids, source).source

    def score(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
    ) -> Tensor:
        """log p(ids[b, t] | ids[b, :t], source[b]) in nats, [B, T]; column 0 and padding are 0."""
        assert source is not None, "an encoder-decoder needs a source for each row"
        return score(self, ids, lengths, source, source_lengths)


@dataclass(frozen=True)
class AttentionMaps:
    """What each head looks at, in one example; rows sum to 1, less what is read of a soft prompt."""

    encoder: Tensor
    """[L, H, S, S], L layers of the encoder; row s has the weights of position s."""
    decoder: Tensor
    """[L, H, T, T]."""
    source: Tensor
    """[L, H, T, S]."""


@torch.no_grad()
def attention_maps(model: EncoderDecoder, ids: Tensor, source: Tensor) -> AttentionMaps:
    """What each head looks at while ids [T] are read after source [S] (or [S, F]); the fused kernel never holds it."""
    found: dict[str, list[Tensor]] = {"encoder": [], "decoder": [], "cross": []}

    def keep(name: str, module: layers.Heads, given: tuple[Any, ...]) -> None:
        if isinstance(module, layers.CrossAttention):
            found["cross"].append(module.read(module.queries(given[0]), given[1][0], None, causal=False)[0])
        elif isinstance(module, layers.Attention):
            x, rope, mask, causal, _, _, _, bias = given  # as a block hands them over
            q, k, _ = module.project(x, rope)
            if bias is not None and causal:  # which the fused kernel joins itself
                index = torch.arange(x.shape[1], device=x.device)
                bias = joined(bias, layers.reach(index, index, None))
            found[name].append(module.read(q, k, mask if bias is None else bias, bool(causal))[0])

    handles = [
        module.register_forward_pre_hook(lambda m, given, name=name: keep(name.partition(".")[0], m, given))
        for name, module in model.named_modules()
        if isinstance(module, layers.Heads)
    ]
    try:
        model.body(ids[None], source[None])
    finally:
        for handle in handles:
            handle.remove()
    own, decoder, cross = (torch.stack(maps) for maps in found.values())
    n = model.before
    return AttentionMaps(own[..., n:, n:], decoder, cross[..., n:])


def encoder_of(s: EncoderDecoderSettings, vocabulary: int) -> Side | Encoder:
    """The encoder of the settings: like the decoder, or one of its own, less what would make logits of its output."""
    if s.encoder is None:
        return Side(s, False, s.n_encoder, None if s.shared_embedding else vocabulary)
    if isinstance(s.encoder, EncoderSideSettings):
        return Side(s.encoder, False, s.encoder.layers, vocabulary)
    encoder = Encoder(s.encoder, vocabulary)
    for part in encoder.token_parts:
        delattr(encoder, part)
    return encoder


def blanked(source: Tensor, lengths: Tensor | None) -> Tensor:
    """A source whose padding is 0, whatever it held, and which has a position at least."""
    if source.shape[1] == 0:
        return source.new_zeros(len(source), 1, *source.shape[2:])
    if source.dim() == 2 or lengths is None:
        return layers.blank(source, lengths)
    past = torch.arange(source.shape[1], device=source.device) >= lengths[:, None]
    return source.masked_fill(past[..., None], 0.0)
