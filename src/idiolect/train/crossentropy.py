"""Linear layer and cross-entropy in one, in chunks of rows: the logits of a large vocabulary are never held whole.

Shapes: N rows (positions), D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from idiolect.data.batch import IGNORE
from idiolect.models import fused

CHUNK = {"cpu": 1 << 22}
"""Most logits held at once, by kind of device: 16 MB in fp32 on a CPU, about what its caches hold …"""
CHUNK_ELSEWHERE = 1 << 27
"""… and 512 MB on an accelerator, whose matrix units want many rows."""
FEWEST_ROWS = 2048
"""A chunk has no fewer rows, whatever the vocabulary: each adds a gradient of the size of the whole weight."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, softcap: float | None = None
) -> Tensor:
    """The sum over the supervised positions of -log softmax(hidden W^T + b)[label], in nats.

    hidden [..., D], weight [V, D], bias [V] or None, labels int64 [...] with IGNORE where nothing is predicted. With a
    softcap c the logits are c · tanh((hidden W^T + b) / c).
    Returns a scalar in float32 (float64 for float64 input), whatever the precision of the products, which follow
    autocast. Up to CHUNK logits take the plain path; above it, rows are taken a chunk at a time and the gradients are
    computed at once, so that memory is N·D + V·D + CHUNK instead of several times N·V.
    """
    x, y = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    rows = max(FEWEST_ROWS, chunk_size(hidden.device) // weight.shape[0])
    if len(x) > rows or fused.usable(x):
        total: Tensor = _Chunked.apply(x, weight, bias, y, rows, torch.is_grad_enabled(), softcap)
        return total
    logits = F.linear(x, weight, bias)
    return cross_entropy(logits if softcap is None else torch.tanh(logits / softcap) * softcap, y)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The same sum from logits [..., V] held whole, taken in float32 or better."""
    rows = logits.reshape(-1, logits.shape[-1]).to(_wide(logits.dtype))
    return F.cross_entropy(rows, labels.reshape(-1), ignore_index=IGNORE, reduction="sum")


def chunk_size(device: torch.device) -> int:
    """Most logits held at once on a device."""
    return CHUNK.get(device.type, CHUNK_ELSEWHERE)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _Chunked(torch.autograd.Function):
    """The chunked path. The loss is a sum, so each row's gradient is known in the forward pass up to one factor.

    Only supervised rows are multiplied (on a CPU), of a chat the answers; what is frozen has no gradient.

    torch's own F.linear_cross_entropy does the same, but in 2.13 it returns a bf16 sum for bf16 input (three digits)
    and does not follow autocast; the tests use it as the reference.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        rows: int,
        grads: bool,
        softcap: float | None,
    ) -> Tensor:
        needed = Needed(*(grads and asked for asked in ctx.needs_input_grad[:3]))
        shape, kind, kept = x.shape, x.device.type, None
        if kind == "cpu":  # an accelerator would have to wait until it is known how many
            kept = (labels != IGNORE).nonzero()[:, 0]
            x, labels = (x, labels) if len(kept) == len(labels) else (x[kept], labels[kept])
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        ours = softcap is None and fused.multiplies(x, weight)
        with torch.autocast(kind, enabled=False):
            given = x.to(dtype), weight if ours else weight.to(dtype), bias, labels, rows, needed
            total, dx, dw, db = _fused(*given) if ours else _loss_and_gradients(*given, softcap)
        if dx is not None and kept is not None and len(dx) < shape[0]:
            dx = dx.new_zeros(shape).index_copy_(0, kept, dx)
        ctx.grads, ctx.dtypes = (dx, dw, db), (x.dtype, weight.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the chunked cross-entropy keeps its gradients for one backward pass only")
        (dx, dw, db), ctx.grads = ctx.grads, None
        dx, dw = (None if d is None else d.mul_(upstream).to(dtype) for d, dtype in zip((dx, dw), ctx.dtypes))
        return dx, dw, None if db is None else db.mul_(upstream), None, None, None, None


class Needed(NamedTuple):
    """Which gradients are asked for: of hidden, weight and bias."""

    x: bool
    w: bool
    bias: bool


def _loss_and_gradients(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    rows: int,
    needed: Needed,
    softcap: float | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """x [N, D], w [V, D] of one dtype → (summed loss, d/dx [N, D], d/dw [V, D], d/db [V]); gradients None if unasked.

    With p = softmax(x w^T + b): dx = (p - onehot) w, dw = (p - onehot)^T x, db = the column sums of p - onehot. A soft
    cap's slope at each logit, 1 - tanh², multiplies p - onehot.
    """
    wide = _wide(x.dtype)
    total = torch.zeros((), dtype=wide, device=x.device)
    dx = torch.empty_like(x) if needed.x else None
    dw = torch.zeros_like(w) if needed.w and not len(x) else None
    db = torch.zeros(len(w), dtype=wide, device=w.device) if needed.bias else None
    buffer = torch.empty(min(rows, len(x)), len(w), dtype=x.dtype, device=x.device)  # one for all chunks
    for start in range(0, len(x), rows):
        part, y = x[start : start + rows], labels[start : start + rows]
        logits = torch.mm(part, w.t(), out=buffer[: len(part)])
        if bias is not None:
            logits += bias
        slope = None
        if softcap is not None:
            logits.div_(softcap).tanh_()
            slope = 1 - logits.square()
            logits.mul_(softcap)
        loss, p = _rows(logits, y)
        total += loss
        if slope is not None:
            p *= slope
        if db is not None:
            db += p.sum(0, dtype=wide)
        if dx is not None:
            torch.mm(p, w, out=dx[start : start + rows])
        if needed.w:
            more = p.t() @ part
            dw = more if dw is None else dw.to(wide).add_(more)
    return total, dx, dw, db


def _fused(
    x: Tensor, w: Tensor, bias: Tensor | None, labels: Tensor, rows: int, needed: Needed
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The same of x bf16 and w fp32 by `fused`'s products, which add to d/dw in place."""
    N, V, total, x = len(x), len(w), torch.zeros(()), x.contiguous()
    dx = torch.empty_like(x) if needed.x else None
    dw = torch.zeros_like(w) if needed.w and not N else None
    db = torch.zeros(V) if needed.bias else None
    buffer = x.new_empty(min(rows, N), (V // 32 + 2) * 32)[:, :V]  # one for all chunks; rows begin with a cache line
    for start in range(0, N, rows):
        part = x[start : start + rows]
        p = fused.product(part, w, bias, buffer[: len(part)])
        total += fused.cross_entropy_(p, labels[start : start + rows]).sum()
        if dx is not None:
            fused.product_input(p, w, dx[start : start + rows])
        if needed.w:
            dw = fused.product_weight(p, part, dw, db)
        elif db is not None:
            db += p.sum(0, dtype=torch.float32)
    return total, dx, dw, db


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """logits [R, V] → (summed loss, softmax - onehot [R, V] in their type, zero where unsupervised); in place."""
    if fused.usable(logits):
        return fused.cross_entropy_(logits, labels).sum(), logits
    supervised, y = (labels != IGNORE)[:, None], labels.clamp_min(0)[:, None]
    p = logits.to(_wide(logits.dtype))
    p -= p.amax(-1, keepdim=True)
    picked = p.gather(-1, y)
    mass = p.exp_().sum(-1, keepdim=True)
    loss = ((mass.log() - picked) * supervised).sum()
    p *= supervised / mass
    p.scatter_(-1, y, p.gather(-1, y) - supervised.to(p.dtype))
    return loss, p.to(logits.dtype)
