"""Scoring a text with any model that has a body and a head, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

CHUNK, CHUNK_ELSEWHERE = 1 << 23, 1 << 26
"""Logits held at once on a CPU (32 MiB in float32) and on an accelerator, whose products want many rows."""


class BodyAndHead(Protocol):
    """A trainable model: the head turns the body's hidden vectors into logits."""

    head: nn.Linear

    @property
    def body(self) -> Callable[..., Tensor]:
        """ids [B, T], and what else the model reads → hidden [B, T, D]."""
        ...


@torch.no_grad()
def score(model: BodyAndHead, ids: Tensor, lengths: Tensor | None = None, *source: Tensor | None) -> Tensor:
    """log p(ids[b, t] | ids[b, :t]) in nats: ids [B, T], lengths [B] → [B, T], float32 or better.

    `source` is what the body takes besides the ids: nothing, or sources and their lengths. A model whose body's hidden
    vectors depend on what comes after them has `prefixes`, which takes its place.

    Column 0 and everything at or past lengths[b] are 0. Hidden vectors meet the head in chunks of positions.
    """
    B, T = ids.shape
    kind = torch.promote_types(model.head.weight.dtype, torch.float32)
    out = torch.zeros(B, T, dtype=kind, device=ids.device)
    real = torch.ones(B, T, dtype=torch.bool, device=ids.device)
    if lengths is not None:
        real = torch.arange(T, device=ids.device) < lengths.to(ids.device)[:, None]
    scored = real[:, 1:]
    if not scored.any():
        return out
    read = getattr(model, "prefixes", model.body)
    hidden = read(ids.masked_fill(~real, 0)[:, :-1], *source)[scored]  # [N, D]
    targets = ids[:, 1:][scored]  # [N]
    rows = max(1, (CHUNK if hidden.device.type == "cpu" else CHUNK_ELSEWHERE) // model.head.weight.shape[0])
    parts = [
        -nn.functional.cross_entropy(model.head(part).to(kind), target, reduction="none")
        for part, target in zip(hidden.split(rows), targets.split(rows))
    ]
    out[:, 1:][scored] = torch.cat(parts)
    return out
