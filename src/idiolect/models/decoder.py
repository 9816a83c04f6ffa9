"""One causal transformer whose settings cover the GPT-2 and the Llama/Qwen styles.

Shapes: B rows, T positions, D width, V vocabulary, L layers, H query heads, K key/value heads, d head width,
S slots of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idiolect import devices
from idiolect.errors import UserError
from idiolect.models import layers, stepping
from idiolect.models.contract import Network, last_positions
from idiolect.models.score import score
from idiolect.models.settings import DecoderSettings, TransformerSettings

BLOCK = 64
"""Slots of the cache are read in multiples of this many: a step costs what it must, and few shapes are compiled."""


@dataclass
class KeyValues:
    """What a decoder remembers: each layer's keys (already rotated) and values, and nothing else.

    Token t of a row lies in slot t. The last slot is spare: what padding writes past the end lands there, so that a
    step needs no branch on the data. Bytes: 2 · L · B · K · (S + 1) · d · bytes of one number.
    """

    lengths: Tensor
    """int64 [B]."""
    keys: list[Tensor]
    """A layer each, [B, K, S + 1, d]."""
    values: list[Tensor]
    """A layer each, [B, K, S + 1, d]."""
    used: int = 0
    """No row is longer than this; known without asking the device."""

    @property
    def capacity(self) -> int:
        """Tokens a row can hold (S)."""
        return self.keys[0].shape[2] - 1

    def select(self, rows: Tensor) -> KeyValues:
        """A new state whose row i is a copy of row rows[i]."""
        keys, values = [k[rows] for k in self.keys], [v[rows] for v in self.values]
        return KeyValues(self.lengths[rows], keys, values, self.used)

    def put(self, rows: Tensor, other: KeyValues) -> None:
        """Copies row i of `other` into slot rows[i]. Raises ValueError when its tokens do not fit."""
        if other.used > self.capacity:
            raise ValueError(f"{other.used} tokens do not fit into a state of {self.capacity}")
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values):
            mine[rows, :, : other.used] = theirs[:, :, : other.used]
        self.lengths[rows] = other.lengths
        self.used = int(self.lengths.max())

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths` [B]; the slots beyond are overwritten before they are read."""
        self.lengths = lengths.to(self.lengths.device, torch.int64, copy=True)
        self.used = int(self.lengths.max())

    def grow(self, T: int, lengths: Tensor | None) -> None:
        """Counts T more positions as used. Raises ValueError when a row's real tokens do not fit."""
        used = self.used + T
        if used > self.capacity:  # perhaps only padding reaches past the end: ask the rows (this waits for the device)
            used = int((self.lengths + (T if lengths is None else lengths)).max())
        if used > self.capacity:
            raise ValueError(f"{used} tokens do not fit into a state of {self.capacity}")
        self.used = used


def empty_cache(settings: TransformerSettings, batch: int, length: int, like: Tensor) -> KeyValues:
    """A cache of `batch` rows for `length` tokens before any, in the type and on the device of `like`."""
    memory = like.new_empty((2, settings.layers, batch, settings.n_kv, length + 1, settings.d_head))
    if memory.device.type == "cpu":
        devices.huge_pages(memory.data_ptr(), memory.nbytes)
    keys, values = memory.zero_()
    return KeyValues(torch.zeros(batch, dtype=torch.int64, device=like.device), list(keys), list(values))


class Decoder(Network):
    """A decoder-only transformer (Vaswani et al. 2017; GPT-2 and Llama arrangements)."""

    settings: DecoderSettings

    def __init__(self, settings: DecoderSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.context = settings.context
        D = settings.width
        self.embedding = nn.Embedding(vocabulary, D)
        self.position = nn.Embedding(settings.context, D) if settings.position == "learned" else None
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(layers.Block(settings) for _ in range(settings.layers))
        self.norm = nn.Identity() if settings.norm_place == "residual" else layers.norm(D, settings)
        self.head = nn.Linear(D, vocabulary, bias=False)
        self.tie()

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place."""
        layers.initialise(name, weights, generator, self.settings)

    def embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """ids [B, T], positions [T] or [B, T] → the first block's input [B, T, D] and its rotations [B or 1, 1, T, d].

        The rotations are None when positions are not rotary.
        """
        x = self.embedding(ids)
        if self.position is not None:
            x = x + self.position(positions.clamp(max=self.settings.context - 1))
        if self.settings.position != "rope":
            return self.dropout(x), None
        cosine, sine = layers.rotary(positions, self.settings.d_head, self.settings.rope_theta)
        if positions.dim() == 2:
            cosine, sine = cosine[:, None], sine[:, None]  # one for all heads
        return self.dropout(x), (cosine, sine)

    def body(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """ids [B, T] → hidden [B, T, D], which `head` turns into logits.

        With segments [B, T] a position reads only its own segment, and positions start anew in each. Raises UserError
        when T is longer than the context.
        """
        T, window = ids.shape[1], self.settings.window
        if self.settings.context < T:
            raise UserError(f"{T} tokens are more than the context of {self.settings.context}", "shorten the text")
        index = torch.arange(T, device=ids.device)
        positions = index if segments is None else layers.positions_within(segments)
        x, rope = self.embed(ids, positions)
        first: Tensor | None = None  # plain causal attention needs no mask: the kernel skips what lies ahead
        mask: Tensor | None = None
        if segments is not None or (window is not None and window < T):
            first = index - (positions if window is None else positions.clamp(max=window - 1))
            block = self.blocks[0]
            assert isinstance(block, layers.Block)
            if block.attention.fuses(x):
                first = first.int().expand_as(ids).contiguous()
            else:
                mask, first = layers.between(first, index).view(-1, 1, T, T), None
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, mask, first=first, use_reentrant=False)
            else:
                x = block(x, rope, mask, first=first)
        return self.norm(x)

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> KeyValues:
        """An empty cache of `batch` rows for `length` tokens. Raises UserError when that exceeds the context."""
        assert source is None and source_lengths is None, "a decoder has no source"
        if length > self.settings.context:
            raise UserError(f"{length} tokens are more than the context of {self.settings.context}", "ask for fewer")
        return empty_cache(self.settings, batch, length, self.embedding.weight)

    @torch.no_grad()
    def step(
        self, ids: Tensor, state: KeyValues, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, KeyValues]:
        """ids [B, T] → (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`; the state, advanced).

        Raises ValueError when the tokens do not fit into the state.
        """
        B, T = ids.shape
        window, first = self.settings.window, state.used == 0
        lengths = None if lengths is None else lengths.to(ids.device)
        state.grow(T, lengths)
        kernel = stepping.stepper(self, self.settings, ids, state)
        if kernel is not None:
            logits = kernel.step(ids, state, lengths, last)
            state.lengths = state.lengths + (T if lengths is None else lengths)
            return logits, state
        ids = layers.blank(ids, lengths)
        positions = state.lengths[:, None] + torch.arange(T, device=ids.device)  # [B, T]
        slots = positions.clamp(max=state.capacity)
        rows = torch.arange(B, device=ids.device)[:, None]
        read = min(state.capacity, -(-state.used // BLOCK) * BLOCK)
        mask = None
        if not first:
            mask = layers.reach(positions, torch.arange(read, device=ids.device), window)[:, None]
        elif window is not None and window < T:
            mask = layers.reach(positions[0], positions[0], window)
        x, rope = self.embed(ids, positions)
        for block, keys, values in zip(self.blocks, state.keys, state.values):

            def cache(k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                keys[rows, :, slots] = k.transpose(1, 2).to(keys.dtype)
                values[rows, :, slots] = v.transpose(1, 2).to(values.dtype)
                return (k, v) if first else (keys[:, :, :read].to(k.dtype), values[:, :, :read].to(v.dtype))

            x = block(x, rope, mask, cache=cache)
        if last:
            x = last_positions(x, lengths)
        state.lengths = state.lengths + (T if lengths is None else lengths)
        logits = self.head(self.norm(x))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | ids[b, :t]) in nats, [B, T]; column 0 and padding are 0."""
        return score(self, ids, lengths)


@torch.no_grad()
def attention_maps(model: Decoder, ids: Tensor) -> Tensor:
    """What each head looks at: ids [T] → [L, H, T, T], row t the weights of position t over those before it."""
    index = torch.arange(len(ids), device=ids.device)
    mask = layers.reach(index, index, model.settings.window)
    x, rope = model.embed(ids[None], index)
    maps = []
    for block in model.blocks:
        assert isinstance(block, layers.Block)
        maps.append(block.attention.weights(block.attended(x), rope, mask)[0])
        x = block(x, rope, mask)
    return torch.stack(maps)
