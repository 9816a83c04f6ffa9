"""The two sides of an encoder-decoder: their blocks, what tells these of positions, and what they read.

Shapes: B rows, T queries, S keys, D width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idiolect.models import layers
from idiolect.models.relative import RelativeBias, sinusoids
from idiolect.models.settings import SideSettings


@dataclass(frozen=True)
class Reads:
    """What each query of a call reads: by a mask, or for the fused kernel by lengths and a bias."""

    causal: bool = False
    mask: Tensor | None = None
    """To [B, H, T, S]: True where a key may be read, or numbers that are added to scores."""
    lengths: Tensor | None = None
    """int32 [B]."""
    bias: Tensor | None = None
    """fp32 [H, T, S]."""
    rope: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Source:
    """What a layer of the decoder reads of the source."""

    keys: Tensor
    """[B, K, S, d]."""
    values: Tensor
    reads: Reads


class CrossBlock(layers.Block):
    """x + attention(norm(x)), then x + cross(norm(x), source), then x + mlp(norm(x)); norm_place moves the norms."""

    def __init__(self, settings: SideSettings, attention: layers.Attention) -> None:
        super().__init__(settings, attention)
        self.cross_norm = layers.norm(settings.width, settings)
        self.cross = layers.CrossAttention(settings, scale=attention.scale, dropout=attention.dropout)
        if self.norm_place == "both":
            self.cross_norm_after = layers.norm(settings.width, settings)

    def attend(self, x: Tensor, reads: Reads, cache: layers.Cache | None) -> Tensor:
        """x plus what its positions read of one another: [B, T, D] → [B, T, D]."""
        given = (reads.rope, reads.mask, reads.causal, cache, None, reads.lengths, reads.bias)
        return self.add(x, lambda read: self.attention(read, *given), "attention_norm")

    def forward(self, x: Tensor, reads: Reads, source: Source, cache: layers.Cache | None = None) -> Tensor:  # type: ignore[override]
        """x [B, T, D] → [B, T, D]."""
        x, of = self.attend(x, reads, cache), source.reads
        x = self.add(x, lambda read: self.cross(read, (source.keys, source.values), of.mask, of.lengths), "cross_norm")
        return self.add(x, self.mlp, "mlp_norm")


class Side(nn.Module):
    """The encoder or the decoder: blocks, what tells them of positions, and the norm at their end."""

    def __init__(self, s: SideSettings, causal: bool, number: int, vocabulary: int | None = None) -> None:
        """number: of blocks. vocabulary: ids of an embedding of the encoder's own; None: it has none."""
        super().__init__()
        self.settings, self.causal = s, causal
        frames = None if causal else s.source_features
        self.projection = None if frames is None else nn.Linear(frames, s.width)
        own = frames is None and vocabulary is not None
        self.embedding = nn.Embedding(vocabulary or 0, s.width) if own else None
        context = s.context if causal else s.longest_source or 0
        self.position = nn.Embedding(context, s.width) if s.position == "learned" else None
        of_distances = (s.heads, s.relative_buckets, s.relative_distance, causal)
        self.relative = RelativeBias(*of_distances) if s.position == "relative" else None
        self.dropout = nn.Dropout(s.dropout)
        kind, scale = CrossBlock if causal else layers.Block, None if s.scaled_scores else 1.0
        self.blocks = nn.ModuleList(kind(s, layers.Attention(s, scale=scale, dropout=0.0)) for _ in range(number))
        self.norm = nn.Identity() if s.norm_place == "residual" else layers.norm(s.width, s)

    def placed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Embedded x [B, T, D] at positions [T] or [B, T] → the first block's input [B, T, D]."""
        if self.settings.scaled_embedding:
            x = x * self.settings.width**0.5
        if self.position is not None:
            x = x + self.position(positions.clamp(max=self.position.num_embeddings - 1))
        elif self.settings.position == "sinusoidal":
            x = x + sinusoids(positions, self.settings.width).to(x.dtype)
        dropped: Tensor = self.dropout(x)
        return dropped

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rotations at positions [T] or [B, T]; None when positions are not rotary."""
        if self.settings.position != "rope":
            return None
        cosine, sine = layers.rotary(positions, self.settings.d_head, self.settings.rope_theta)
        return (cosine, sine) if positions.dim() == 1 else (cosine[:, None], sine[:, None])  # one for all heads

    def fuses(self, x: Tensor) -> bool:
        """Whether the fused kernel takes inputs like x, and so lengths and biases in place of masks."""
        block = self.blocks[0]
        assert isinstance(block, layers.Block)
        return block.attention.fuses(x)

    def reads(self, x: Tensor, lengths: Tensor | None = None, fuses: bool = True) -> Reads:
        """What the positions of x [B, T, D] read of one another: an encoder's all within lengths [B]."""
        index = torch.arange(x.shape[1], device=x.device)
        rope, bias = self.rope(index), None if self.relative is None else self.relative(index)
        if fuses and self.fuses(x):
            return Reads(self.causal, None, None if lengths is None else lengths.int(), bias, rope)
        mask = layers.reach(index, index, None) if self.causal else within(lengths, x.shape[1])
        if self.causal and bias is None:
            return Reads(True, rope=rope)
        return Reads(self.causal, joined(bias, mask), rope=rope)


def within(lengths: Tensor | None, S: int) -> Tensor | None:
    """Which of S positions lie within lengths [B]: bool [B, 1, 1, S]; None when all do."""
    if lengths is None:
        return None
    return (torch.arange(S, device=lengths.device) < lengths[:, None])[:, None, None]


def joined(bias: Tensor | None, allowed: Tensor | None) -> Tensor | None:
    """One mask of a bias [..., H, T, S] and of what may be read, bool to the same."""
    if bias is None or allowed is None:
        return allowed if bias is None else bias
    return bias.masked_fill(~allowed, -torch.inf)
