"""One transformer that reads a whole text at once, whose settings cover BERT, RoBERTa, DistilBERT and newer styles.

Shapes: B rows, T positions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from idiolect.errors import UserError
from idiolect.models import layers
from idiolect.models.contract import Network
from idiolect.models.settings import EncoderSettings


class Transform(nn.Module):
    """norm(f(dense(x))), f the activation of the MLP or, where that is gated, GELU (Devlin et al. 2019)."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.dense = nn.Linear(settings.width, settings.width)
        self.activation = layers.ACTIVATIONS["gelu-exact" if settings.gated else settings.mlp]
        self.norm = layers.norm(settings.width, settings)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]."""
        out: Tensor = self.norm(self.activation(self.dense(x)))
        return out


class Encoder(Network):
    """A transformer whose positions all read one another (Devlin et al. 2019, BERT, arXiv 1810.04805)."""

    settings: EncoderSettings
    prompt: nn.Parameter | None
    """[n, D] before every text, where `adapt` puts one there."""
    token_parts = ("transform", "head", "pooler")
    refusal = "fills in what is hidden, and so looks into the future"

    def __init__(self, settings: EncoderSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.context: int = settings.context
        self.register_parameter("prompt", None)
        D, rows = settings.width, settings.position_offset + settings.context
        self.embedding = nn.Embedding(vocabulary, D)
        self.position = nn.Embedding(rows, D) if settings.position == "learned" else None
        self.types = nn.Embedding(settings.token_types, D) if settings.token_types else None
        first: Any = layers.norm(D, settings) if settings.embedding_norm else nn.Identity()
        first.rounds = False  # its result is the residual stream itself
        self.embedding_norm = first
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(layers.Block(settings) for _ in range(settings.layers))
        self.norm = nn.Identity() if settings.norm_place == "residual" else layers.norm(D, settings)
        self.pooler = nn.Linear(D, D) if settings.pooler else None
        transformed = settings.head == "transform"
        self.transform: nn.Module = Transform(settings) if transformed else nn.Identity()
        """What is between `body` and `head`, at the positions that are filled in: [..., D] → [..., D]."""
        self.head = nn.Linear(D, vocabulary, bias=transformed)
        self.tie()

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place."""
        layers.initialise(name, weights, generator, self.settings)

    def embed(
        self, ids: Tensor, positions: Tensor, types: Tensor | None = None, prompt: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """ids [B, T], positions [T] or [B, T], types [B, T] → the first block's input [B, T, D] and its rotations.

        These are [B or 1, 1, T, d], or None when positions are not rotary. A prompt [n, D] comes before the ids of
        every row; positions and results then are of n + T.
        """
        x = layers.prompted(prompt, self.embedding(ids))
        if self.position is not None:
            x = x + self.position(positions + self.settings.position_offset)
        if self.types is not None:
            kinds = torch.zeros_like(ids) if types is None else types
            x = x + self.types(F.pad(kinds, (x.shape[1] - kinds.shape[1], 0)))
        x = self.dropout(self.embedding_norm(x))
        if self.settings.position != "rope":
            return x, None
        cosine, sine = layers.rotary(positions, self.settings.d_head, self.settings.rope_theta)
        if positions.dim() == 2:
            cosine, sine = cosine[:, None], sine[:, None]  # one for all heads
        return x, (cosine, sine)

    def body(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        segments: Tensor | None = None,
        types: Tensor | None = None,
    ) -> Tensor:
        """ids [B, T] → hidden [B, T, D], which `transform` and then `head` turn into logits.

        Ids at or past lengths (int64 [B]) change nothing, and what stands there means nothing. Segments (int64 [B, T],
        padding -1) say the same of rows that hold several documents: a position reads only its own, and positions start
        anew in each. types (int64 [B, T]) are the rows of the token-type embedding, else 0. Raises UserError when T is
        longer than the context.
        """
        T, n = ids.shape[1], 0 if self.prompt is None else len(self.prompt)
        if self.context < T:
            raise UserError(f"{T} tokens are more than the context of {self.context}", "shorten the text")
        if n and segments is not None:
            raise UserError("a soft prompt reads one text a row", "use another adapt.kind for rows of several")
        ids = layers.blank(ids, lengths)
        index = torch.arange(n + T, device=ids.device)
        positions = index if segments is None else layers.positions_within(segments)
        x, rope = self.embed(ids, positions, types, self.prompt)
        mask: Tensor | None = None  # bool, to [B, H, T, T]
        first = self.blocks[0]
        assert isinstance(first, layers.Block)
        if segments is not None:
            mask, lengths = (segments[:, :, None] == segments[:, None])[:, None], None
        elif lengths is not None:
            lengths = n + lengths.clamp_min(1).int()  # an empty row reads its first, lest its numbers be none
            if not first.attention.fuses(x):
                mask, lengths = (index < lengths[:, None])[:, None, None], None
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, mask, causal=False, lengths=lengths, use_reentrant=False)
            else:
                x = block(x, rope, mask, causal=False, lengths=lengths)
        out: Tensor = self.norm(x[:, n:])
        return out


@torch.no_grad()
def attention_maps(model: Encoder, ids: Tensor) -> Tensor:
    """What each head looks at: ids [T] → [L, H, T, T], row t the weights of position t over all of them.

    What it reads of a soft prompt is left out.
    """
    n = 0 if model.prompt is None else len(model.prompt)
    index = torch.arange(n + len(ids), device=ids.device)
    everything = torch.ones(len(index), len(index), dtype=torch.bool, device=ids.device)
    x, rope = model.embed(ids[None], index, None, model.prompt)
    maps = []
    for block in model.blocks:
        assert isinstance(block, layers.Block)
        maps.append(block.attention.weights(block.attended(x), rope, everything)[0, :, n:, n:])
        x = block(x, rope, causal=False)
    return torch.stack(maps)
