"""Positions that no parameter of the embedding tells: sinusoids, and biases of scores by distance.

Shapes: B rows, T queries, S keys, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(positions: Tensor, D: int) -> Tensor:
    """What is added to the embedding at positions [...] → fp32 [..., D] (Vaswani et al. 2017, section 3.5).

    Components 2i and 2i + 1 are sine and cosine of position / 10000^(2i / D).
    """
    frequencies = 10000.0 ** (-torch.arange(0, D, 2, device=positions.device, dtype=torch.float32) / D)
    angles = positions[..., None].float() * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :D]


def bucket(distance: Tensor, buckets: int, farthest: int, causal: bool) -> Tensor:
    """The bucket of a distance key - query, int64 [...] → the same (Raffel et al. 2020, section 2.1, and their code).

    Half of the buckets hold one distance each; the others grow with its logarithm up to `farthest`, and the last holds
    all beyond. Where queries also read what is ahead of them, that has the second half of all buckets.
    """
    ahead = torch.zeros_like(distance)
    if causal:
        distance = (-distance).clamp_min(0)
    else:
        buckets //= 2
        ahead, distance = (distance > 0) * buckets, distance.abs()
    single = buckets // 2
    share = torch.log(distance.clamp_min(1).float() / single) / math.log(farthest / single)
    far = (single + (share * (buckets - single)).long()).clamp_max(buckets - 1)
    return ahead + torch.where(distance < single, distance, far)


class RelativeBias(nn.Embedding):
    """A number for each bucket of distances and each head, added to scores; layers share it."""

    def __init__(self, heads: int, buckets: int, farthest: int, causal: bool) -> None:
        super().__init__(buckets, heads)
        self.buckets, self.farthest, self.causal = buckets, farthest, causal

    def forward(self, queries: Tensor, keys: Tensor | None = None) -> Tensor:
        """Positions of queries [..., T] and of keys [S] (the same when None) → [..., H, T, S], fp32 or better."""
        distance = (queries if keys is None else keys) - queries[..., None]
        found = super().forward(bucket(distance, self.buckets, self.farthest, self.causal)).movedim(-1, -3)
        return found.to(torch.promote_types(found.dtype, torch.float32)).contiguous()
