"""One causal transformer whose settings cover GPT-2, Llama and their descendants.

Shapes: B rows, T positions, D width, V vocabulary, L layers, H query heads, K key/value heads, d head width,
S slots of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idiolect import devices
from idiolect.errors import UserError
from idiolect.models import layers, longrope, rope, stepping
from idiolect.models.contract import Network, last_positions
from idiolect.models.decoder_settings import LongRope
from idiolect.models.experts import Experts, balance
from idiolect.models.keyvalues import KeyValues
from idiolect.models.score import score
from idiolect.models.settings import DecoderSettings, TransformerSettings

BLOCK = 64
"""Slots of the cache are read in multiples of this many: a step costs what it must, and few shapes are compiled."""
PROMPT = -2
"""The segment that a soft prompt is (-1 is padding's)."""
Rope = tuple[Tensor, Tensor] | None
Masks = dict[int | None, tuple[Tensor | None, Tensor | None]]
"""By window: the mask of a block that has it, or in its place the first position that each query reads."""


def empty_cache(settings: TransformerSettings, batch: int, length: int, like: Tensor) -> KeyValues:
    """A cache of `batch` rows for `length` tokens before any, in the type and on the device of `like`."""
    memory = like.new_empty((2, settings.layers, batch, settings.n_kv, length + 1, settings.d_head))
    if memory.device.type == "cpu":
        devices.huge_pages(memory.data_ptr(), memory.nbytes)
    keys, values = memory.zero_()
    return KeyValues(torch.zeros(batch, dtype=torch.int64, device=like.device), list(keys), list(values))


class Decoder(Network):
    """A decoder-only transformer (Vaswani et al. 2017; GPT-2, Llama and their descendants)."""

    settings: DecoderSettings
    prompt: nn.Parameter | None
    """[n, D] before every text, where `adapt` puts one there."""

    def __init__(self, settings: DecoderSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = s = settings
        self.vocabulary = vocabulary
        self.context: int = s.context
        D = s.width
        self.compiles = s.experts is None  # how many tokens an expert gets is another number in every step
        self.minds_padding = s.experts is not None or self.bound is not None  # unless it is a segment of its own
        self.embedding = nn.Embedding(vocabulary, D)
        self.position = nn.Embedding(s.context, D) if s.position == "learned" else None
        self.register_parameter("prompt", None)
        self.dropout = nn.Dropout(s.dropout)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(s.layers))
        self.norm = nn.Identity() if s.norm_place == "residual" else layers.norm(D, s)
        capped = s.logit_softcap
        self.head = nn.Linear(D, vocabulary, bias=False) if capped is None else layers.CappedHead(D, vocabulary, capped)
        self.tie()

    def _block(self, layer: int) -> layers.Block:
        s = self.settings
        attention = layers.Attention(s, scale=s.attention_scale, softcap=s.attention_softcap, joint=s.qk_norm_joint)
        return layers.Block(s, attention, Experts(s, s.experts) if s.experts is not None and s.sparse(layer) else None)

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place."""
        layers.initialise(name, weights, generator, self.settings)

    def embed(self, ids: Tensor, positions: Tensor, prompt: Tensor | None = None) -> Tensor:
        """ids [B, T], positions [T] or [B, T] → the first block's input [B, T, D].

        A prompt [n, D] comes before the ids of every row; positions and result then are of n + T.
        """
        x: Tensor = self.embedding(ids)
        if self.settings.scaled_embedding:
            x = x * x.new_tensor(self.settings.width**0.5)  # rounded to the type of x, as Gemma's is
        x = layers.prompted(prompt, x)  # which is learnt as large as it is to be
        if self.position is not None:
            x = x + self.position(positions.clamp(max=self.settings.context - 1))
        out: Tensor = self.dropout(x)
        return out

    @property
    def bound(self) -> int | None:
        """Tokens above which a text is read with other rotations (longrope); None: no such number."""
        scaling = self.settings.rope_scaling
        return scaling.original_context if isinstance(scaling, LongRope) else None

    def ropes(self, positions: Tensor, long: Tensor | None) -> list[Rope]:
        """Each block's rotations [B, 1, T, d] or [T, d] of positions [B, T] or [T]; None where there are none.

        `long` (bool, to their shape): whether a position lies in a text of more tokens than the bound, where there is
        one.
        """
        s = self.settings
        if s.position != "rope":
            return [None] * s.layers
        d, theta, device = s.d_rope, s.rope_theta, positions.device
        found = rope.frequencies(d, theta, s.rope_scaling, device=device)
        if long is not None:
            longer = rope.frequencies(d, theta, s.rope_scaling, long=True, device=device)
            found = torch.where(long.to(device)[..., None], longer, found)
        everywhere = local = self._turns(positions, found, rope.magnitude(s.rope_scaling, s.context))
        if s.rope_local_theta is not None:
            local = self._turns(positions, rope.frequencies(d, s.rope_local_theta, device=device))
        return [
            None if layer in s.unrotated_layers else everywhere if s.window_of(layer) is None else local
            for layer in range(s.layers)
        ]

    def _turns(self, positions: Tensor, frequencies: Tensor, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
        cosine, sine = rope.turns(positions, frequencies, magnitude)
        return (cosine, sine) if cosine.dim() == 2 else (cosine[:, None], sine[:, None])  # one for all heads

    def body(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """ids [B, T] → hidden [B, T, D], which `head` turns into logits.

        With segments [B, T] a position reads only its own segment, and positions start anew in each. Raises UserError
        when T is longer than the context.
        """
        T, n = ids.shape[1], 0 if self.prompt is None else len(self.prompt)
        if self.context < T:
            raise UserError(f"{T} tokens are more than the context of {self.context}", "shorten the text")
        index = torch.arange(n + T, device=ids.device)
        positions = index if segments is None else layers.positions_within(segments)
        if n and segments is not None:
            segments, positions = F.pad(segments, (n, 0), value=PROMPT), F.pad(positions + n, (n, 0))
            positions[:, :n] = index[:n]
        x = self.embed(ids, positions, self.prompt)
        if n and segments is not None:
            masks = self._prompted_masks(index, positions, segments)
        else:
            masks = self._masks(x, index, None if segments is None else positions)
        for block, turned, window in zip(
            self.blocks, self.ropes(positions, self.outgrown(T, segments)), self.windows()
        ):
            mask, first = masks[window]
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, turned, mask, first=first, use_reentrant=False)
            else:
                x = block(x, turned, mask, first=first)
        self.auxiliary = self._balance(segments)
        out: Tensor = self.norm(x[:, n:])
        return out

    def outgrown(self, T: int, segments: Tensor | None = None) -> Tensor | None:
        """Whether each position [B, T] (or all) lies in a text of more tokens than the bound; None without a bound."""
        if self.bound is None:
            return None
        return (torch.tensor(T) if segments is None else layers.lengths_within(segments)) > self.bound

    def windows(self) -> Iterator[int | None]:
        """Each block's window."""
        return (self.settings.window_of(layer) for layer in range(self.settings.layers))

    def _masks(self, x: Tensor, index: Tensor, positions: Tensor | None) -> Masks:
        """What blocks with and without a window may read; positions [B, T] where a row holds several segments."""
        masks: Masks = {}
        B, T = x.shape[:2]
        block = self.blocks[0]
        assert isinstance(block, layers.Block)
        for window in set(self.windows()):
            if positions is None and (window is None or window >= T):
                masks[window] = None, None  # plain causal attention needs no mask: the kernel skips what lies ahead
                continue
            within = index if positions is None else positions
            first = index - (within if window is None else within.clamp(max=window - 1))
            if block.attention.fuses(x):
                masks[window] = None, first.int().expand(B, T).contiguous()
            else:
                masks[window] = layers.between(first, index).view(-1, 1, T, T), None
        return masks

    def _prompted_masks(self, index: Tensor, positions: Tensor, segments: Tensor) -> Masks:
        """The same where several segments follow one soft prompt, which each of them reads as if it were alone.

        What the prompt's own positions hold depends on nothing after them, so once is enough for all.
        """
        allowed = (segments[:, :, None] == segments[:, None]) | (segments == PROMPT)[:, None]  # [B, n + T, n + T]
        allowed &= index[:, None] >= index
        apart = positions[:, :, None] - positions[:, None]
        return {
            window: ((allowed if window is None else allowed & (apart < window))[:, None], None)
            for window in set(self.windows())
        }

    def _balance(self, segments: Tensor | None) -> Tensor | None:
        """The weighted mean over the layers of how uneven their experts' loads were, while training."""
        e = self.settings.experts
        if e is None or not e.balance or not self.training:
            return None
        real = None if segments is None else segments.flatten() >= 0
        sparse = [block.mlp for block in self.blocks if isinstance(block.mlp, Experts)]
        uneven = [balance(*mlp.routed, real) for mlp in sparse if mlp.routed is not None]
        for mlp in sparse:
            mlp.routed = None
        return e.balance * torch.stack(uneven).mean()

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> KeyValues:
        """An empty cache of `batch` rows for `length` tokens. Raises UserError when that exceeds the context."""
        assert source is None and source_lengths is None, "a decoder has no source"
        if length > self.context:
            raise UserError(f"{length} tokens are more than the context of {self.context}", "ask for fewer")
        n = 0 if self.prompt is None else len(self.prompt)
        state = empty_cache(self.settings, batch, n + length, self.embedding.weight)
        if self.prompt is not None:
            self._read_prompt(state, self.prompt)
        if self.bound is not None:
            state.ids = torch.zeros(batch, length + 1, dtype=torch.int64, device=state.lengths.device)
            state.long = torch.zeros_like(state.lengths, dtype=torch.bool)
        return state

    @torch.no_grad()
    def _read_prompt(self, state: KeyValues, prompt: Tensor) -> None:
        """Puts the keys and values of a soft prompt [n, D] before all rows of an empty cache."""
        index, n = torch.arange(len(prompt), device=prompt.device), len(prompt)
        x = self.embed(index.new_empty(1, 0), index, prompt)
        for block, keys, values, turned, window in zip(
            self.blocks, state.keys, state.values, self.ropes(index, None), self.windows(), strict=True
        ):

            def cache(k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                keys[:, :, :n], values[:, :, :n] = k.to(keys.dtype), v.to(values.dtype)
                return k, v

            x = block(x, turned, layers.reach(index, index, window), cache=cache)
        state.before = state.used = n

    @torch.no_grad()
    def step(
        self, ids: Tensor, state: KeyValues, lengths: Tensor | None = None, last: bool = False
    ) -> tuple[Tensor, KeyValues]:
        """ids [B, T] → (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`; the state, advanced).

        Raises ValueError when the tokens do not fit into the state.
        """
        lengths = None if lengths is None else lengths.to(ids.device)
        if self.bound is not None:
            return longrope.step(self, ids, state, lengths, last, self.bound)
        return self.advance(ids, state, lengths, last)

    def advance(
        self, ids: Tensor, state: KeyValues, lengths: Tensor | None, last: bool, long: Tensor | None = None
    ) -> tuple[Tensor, KeyValues]:
        """`step`, with the rotations of long texts in the rows where `long` [B] says so."""
        B, T = ids.shape
        first = state.used == 0
        state.grow(T, lengths)
        kernel = stepping.stepper(self, self.settings, ids, state)
        if kernel is not None:
            logits = kernel.step(ids, state, lengths, last)
            state.lengths = state.lengths + (T if lengths is None else lengths)
            return logits, state
        ids = layers.blank(ids, lengths)
        positions = state.ends[:, None] + torch.arange(T, device=ids.device)  # [B, T]
        slots = positions.clamp(max=state.capacity)
        rows = torch.arange(B, device=ids.device)[:, None]
        if state.ids is not None:
            state.ids[rows, slots] = ids
        read = min(state.capacity, -(-state.used // BLOCK) * BLOCK)
        masks: dict[int | None, Tensor | None] = {}
        for window in set(self.windows()):
            if not first:
                masks[window] = layers.reach(positions, torch.arange(read, device=ids.device), window)[:, None]
            else:
                cut = window is not None and window < T
                masks[window] = layers.reach(positions[0], positions[0], window) if cut else None
        x = self.embed(ids, positions)
        ropes = self.ropes(positions, None if long is None else long[:, None])
        for block, keys, values, turned, window in zip(
            self.blocks, state.keys, state.values, ropes, self.windows(), strict=True
        ):

            def cache(k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                keys[rows, :, slots] = k.transpose(1, 2).to(keys.dtype)
                values[rows, :, slots] = v.transpose(1, 2).to(values.dtype)
                return (k, v) if first else (keys[:, :, :read].to(k.dtype), values[:, :, :read].to(v.dtype))

            x = block(x, turned, masks[window], cache=cache)
        if last:
            x = last_positions(x, lengths)
        state.lengths = state.lengths + (T if lengths is None else lengths)
        logits = self.head(self.norm(x))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), state

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p(ids[b, t] | ids[b, :t]) in nats, [B, T]; column 0 and padding are 0."""
        return score(self, ids, lengths)

    def prefixes(self, ids: Tensor) -> Tensor:
        """ids [B, T] → hidden [B, T, D], each position's as of a text that ends with it."""
        hidden = self.body(ids)
        if self.bound is None or ids.shape[1] <= self.bound:
            return hidden
        return torch.cat((self.body(ids[:, : self.bound]), hidden[:, self.bound :]), dim=1)


@torch.no_grad()
def attention_maps(model: Decoder, ids: Tensor) -> Tensor:
    """What each head looks at: ids [T] → [L, H, T, T], row t the weights of position t over those before it.

    What it reads of a soft prompt is left out.
    """
    n = 0 if model.prompt is None else len(model.prompt)
    index = torch.arange(n + len(ids), device=ids.device)
    x, ropes = model.embed(ids[None], index, model.prompt), model.ropes(index, model.outgrown(len(ids)))
    maps = []
    for block, turned, window in zip(model.blocks, ropes, model.windows()):
        assert isinstance(block, layers.Block)
        mask = layers.reach(index, index, window)
        maps.append(block.attention.weights(block.attended(x), turned, mask)[0, :, n:, n:])
        x = block(x, turned, mask)
    return torch.stack(maps)
