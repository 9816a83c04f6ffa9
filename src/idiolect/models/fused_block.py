"""A transformer block trained in bf16 on a CPU: forward and backward written out as calls into `fused.cpp`.

What torch would do in some hundred operations, each with its dispatch, its copy and its pass over memory, is about
twenty calls: the residual stream stays in fp32 and is added to by the products themselves, norms add the gradient that
passes them by. Which blocks it is for, `layers.Block.fuses` says.
Shapes: B rows, T positions, n = B T, D width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from idiolect.models import fused

Rope = tuple[Tensor, Tensor]
Part = tuple[Any, Any]
"""Weight and bias (or None) of a linear layer or norm."""


@dataclass(frozen=True)
class Shape:
    """What a block computes besides its weights."""

    B: int
    T: int
    H: int
    K: int
    d: int
    mlp: str
    """"gelu" or "swiglu"."""
    centre: bool
    """LayerNorm, else RMSNorm."""
    epsilon: float


def forward(block: Any, x: Tensor, rope: Rope | None, first: Tensor | None) -> Tensor:
    """block(x): x fp32 [B, T, D] → the same, where the block fuses; rope tables [T, d] or [B, 1, T, d]."""
    attention, mlp, norm = block.attention, block.mlp, block.attention_norm
    d, centre = attention.d, isinstance(norm, nn.LayerNorm)
    H, K = len(attention.query.weight) // d, len(attention.key.weight) // d
    B, T, _ = x.shape
    shape = Shape(B, T, H, K, d, mlp.kind, centre, float(norm.eps or 0.0))
    parts = [norm, block.mlp_norm, *block.linears()]
    parameters = [p for part in parts for p in (part.weight, getattr(part, "bias", None))]
    tables = (None, None) if rope is None else (rope[0].contiguous(), rope[1].contiguous())
    out: Tensor = _Block.apply(shape, x, *tables, first, *parameters)
    return out


class _Block(torch.autograd.Function):
    """Takes (weight, bias) of each part: both norms, query, key, value, out, up, down and perhaps gate."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Shape,
        x: Tensor,
        cosine: Tensor | None,
        sine: Tensor | None,
        first: Tensor | None,
        *parameters: Any,
    ) -> Tensor:
        norm1, norm2, query, key, value, out, up, down, *gate = zip(parameters[::2], parameters[1::2])
        rows = x.contiguous().view(-1, x.shape[-1])
        n1, *moments1 = fused.norm_forward(rows, *norm1, s.epsilon, s.centre)
        qkv = n1.new_empty(len(rows), (s.H + 2 * s.K) * s.d)
        for part, to in zip((query, key, value), _projections(s, qkv)):
            fused.product(n1, *part, to)
        if cosine is not None and sine is not None:
            fused.rotate_(qkv, s.H + s.K, cosine, sine)
        heads, lse = fused.attention_forward(*_heads(s, qkv), first)
        middle = fused.product_add(rows, heads.view(len(rows), -1), *out)
        n2, *moments2 = fused.norm_forward(middle, *norm2, s.epsilon, s.centre)
        inputs = [fused.product(n2, *part, n2.new_empty(len(n2), len(part[0]))) for part in (*gate, up)]
        result = fused.product_add(middle, fused.activate(s.mlp, inputs), *down)
        ctx.shape = s
        kept = (rows, n1, *moments1, qkv, heads, lse, middle, n2, *moments2, *inputs)
        ctx.save_for_backward(cosine, sine, first, *parameters, *kept)
        ctx.parameters = len(parameters)
        return result.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine, first, *saved = ctx.saved_tensors
        parameters, saved = saved[: ctx.parameters], saved[ctx.parameters :]
        norm1, norm2, query, key, value, out, up, down, *gate = zip(parameters[::2], parameters[1::2])
        x, n1, mean1, inverse1, qkv, heads, lse, middle, n2, mean2, inverse2, *inputs = saved
        s, gradients = ctx.shape, _Gradients(ctx, parameters)
        past = dout.contiguous().view(len(x), -1)
        d = past.to(torch.bfloat16)
        hidden = fused.product_input(d, down[0], d.new_empty(len(d), down[0].shape[1]))
        dinputs = fused.activate_backward(s.mlp, inputs, hidden)
        gradients.linear(down, d, hidden)  # which is the activation by now
        dn = gradients.inputs(zip((*gate, up), dinputs), n2)
        past, d = gradients.norm(s, norm2, (middle, mean2, inverse2), dn, past)
        flat = heads.view(len(x), -1)
        dheads = fused.product_input(d, out[0], torch.empty_like(flat))
        gradients.linear(out, d, flat)
        dqkv = torch.empty_like(qkv)
        fused.attention_backward(*_heads(s, qkv), first, heads, lse, dheads, _heads(s, dqkv))
        if cosine is not None:
            fused.rotate_(dqkv, s.H + s.K, cosine, sine, back=True)
        dn = gradients.inputs(zip((query, key, value), _projections(s, dqkv)), n1)
        dx, _ = gradients.norm(s, norm1, (x, mean1, inverse1), dn, past)
        return None, dx.view_as(dout), None, None, None, *gradients.found


class _Gradients:
    """The gradients of a block's parameters as they are found; None for those that may not train."""

    def __init__(self, ctx: Any, parameters: Sequence[Tensor | None]) -> None:
        wanted = ctx.needs_input_grad[-len(parameters) :]
        self.place = {id(p): i for i, p in enumerate(parameters) if p is not None and wanted[i]}
        self.found: list[Tensor | None] = [None] * len(parameters)

    def linear(self, part: Part, dout: Tensor, x: Tensor) -> None:
        """Those of a linear layer that made dout's [n, N] of x [n, K]."""
        weight, bias = (self.place.get(id(p)) for p in part)
        sums = None if bias is None else torch.empty(dout.shape[1])
        if weight is not None:
            self.found[weight] = fused.product_weight(dout, x, sums=sums)
        elif sums is not None:
            torch.sum(dout, 0, dtype=sums.dtype, out=sums)
        if bias is not None:
            self.found[bias] = sums

    def inputs(self, parts: Iterable[tuple[Part, Tensor]], x: Tensor) -> Tensor:
        """Those of linear layers that all read x [n, K]; returns d/dx, bf16."""
        dx: Tensor | None = None
        for part, dout in parts:
            dx = fused.product_input(dout, part[0], torch.empty_like(x) if dx is None else dx, dx)
            self.linear(part, dout, x)
        assert dx is not None
        return dx

    def norm(
        self, s: Shape, part: Part, given: tuple[Tensor, Tensor, Tensor], dout: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Those of a norm of x, given (x, mean, inverse); returns past + d/dx, in fp32 [n, D] and rounded to bf16."""
        (weight, bias), (x, mean, inverse) = part, given
        biased = bias is not None
        dx, low, dweight, dbias = fused.norm_backward(x, weight, mean, inverse, biased, s.centre, dout, past)
        assert low is not None
        for p, gradient in ((weight, dweight), (bias, dbias)):
            if id(p) in self.place:
                self.found[self.place[id(p)]] = gradient
        return dx, low


def _projections(s: Shape, qkv: Tensor) -> Sequence[Tensor]:
    """The columns of qkv [n, (H + 2 K) d] that are queries, keys and values: views."""
    return qkv.split([s.H * s.d, s.K * s.d, s.K * s.d], dim=1)


def _heads(s: Shape, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n, (H + 2 K) d] → queries [B, T, H, d], keys and values [B, T, K, d]: views."""
    q, k, v = qkv.view(s.B, s.T, -1, s.d).split([s.H, s.K, s.K], dim=2)
    return q, k, v
