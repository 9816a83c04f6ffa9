"""A transformer block trained in bf16 on a CPU: forward and backward written out as calls into `fused.cpp`.

What torch would do in some hundred operations, each with its dispatch, its copy and its pass over memory, is about
twenty calls: the residual stream stays in fp32 and is added to by the products themselves, norms add the gradient that
passes them by. Shapes: B rows, T positions, n = B T, D width,
H query heads, K key/value heads, d head width, W width of the MLP.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from idiolect.models import fused
from idiolect.models.fused import _call, _pointers, _shape

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


def takes(block: Any, x: Tensor) -> bool:
    """Whether `forward` computes what the block's own modules would: x fp32 in bf16 training, all parts plain."""
    attention, mlp = block.attention, block.mlp
    linears = [attention.query, attention.key, attention.value, attention.out, mlp.up, mlp.down]
    linears += [mlp.gate] if mlp.kind == "swiglu" else []
    return (
        x.dtype == torch.float32
        and mlp.kind in ("gelu", "swiglu")
        and isinstance(attention.query_norm, nn.Identity)
        and not (block.training and block.dropout.p)
        and attention.fuses(x)
        and all(type(layer) is nn.Linear and fused.multiplies(x, layer.weight) for layer in linears)
        and all(len(layer.weight) % 2 == 0 for layer in linears)
    )


def forward(block: Any, x: Tensor, rope: Rope | None, first: Tensor | None) -> Tensor:
    """block(x): x fp32 [B, T, D] → the same, for what `takes` said yes to; rope tables [T, d] or [B, 1, T, d]."""
    attention, mlp, norm = block.attention, block.mlp, block.attention_norm
    B, T, D = x.shape
    d, centre = attention.d, isinstance(norm, nn.LayerNorm)
    H, K = len(attention.query.weight) // d, len(attention.key.weight) // d
    shape = Shape(B, T, H, K, d, mlp.kind, centre, float(norm.eps or 0.0))
    linears = [attention.query, attention.key, attention.value, attention.out, mlp.up, mlp.down]
    linears += [mlp.gate] if mlp.kind == "swiglu" else []
    parts = [norm, block.mlp_norm, *linears]
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
        n1, *moments1 = _norm(s, rows, *norm1)
        qkv = n1.new_empty(len(rows), (s.H + 2 * s.K) * s.d)
        for part, to in zip((query, key, value), _projections(s, qkv)):
            fused.product(n1, *part, to)
        _rotate(s, qkv, cosine, sine, back=False)
        heads, lse = torch.empty(s.B, s.T, s.H, s.d, dtype=qkv.dtype), torch.empty(s.B, s.H, s.T)
        q, k, v = _heads(s, qkv)
        _library().attention(_shape(q, k, v), *_pointers(q, k, v, first, heads, lse))
        middle = _add_linear(rows, heads.view(len(rows), -1), *out)
        n2, *moments2 = _norm(s, middle, *norm2)
        inputs = [fused.product(n2, *part, n2.new_empty(len(n2), len(part[0]))) for part in (*gate, up)]
        result = _add_linear(middle, fused._activate(s.mlp, inputs), *down)
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
        dinputs = fused._activate_backward(s.mlp, inputs, hidden)
        gradients.linear(down, d, hidden)  # which is the activation by now
        dn = gradients.inputs(zip((*gate, up), dinputs), n2)
        past, d = gradients.norm(s, norm2, (middle, mean2, inverse2), dn, past)
        flat = heads.view(len(x), -1)
        dheads = fused.product_input(d, out[0], torch.empty_like(flat))
        gradients.linear(out, d, flat)
        dqkv = torch.empty_like(qkv)
        tensors = *_heads(s, qkv), first, heads, lse, dheads, *_heads(s, dqkv)
        _library().attention_backward(_shape(*tensors[:3]), *_pointers(*tensors))
        _rotate(s, dqkv, cosine, sine, back=True)
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
        if weight is not None:
            self.found[weight] = fused.product_weight(dout, x)
        if bias is not None:
            self.found[bias] = dout.sum(0, dtype=torch.float32)

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
        weight, bias = part
        x = given[0]
        dx, low, dweight = torch.empty_like(x), torch.empty_like(dout), torch.empty_like(weight)
        dbias = None if bias is None else torch.empty_like(bias)
        parts = x.new_empty(-(-len(x) // fused.ROWS_A_PART), 2, x.shape[1])
        moments = given[1:]
        _call("norm_backward", *x.shape, x, weight, *moments, s.centre, dout, past, dx, low, parts, dweight, dbias)
        for p, gradient in ((weight, dweight), (bias, dbias)):
            if id(p) in self.place:
                self.found[self.place[id(p)]] = gradient
        return dx, low


def _library() -> ctypes.CDLL:
    found = fused.library()
    assert found is not None
    return found


def _projections(s: Shape, qkv: Tensor) -> Sequence[Tensor]:
    """The columns of qkv [n, (H + 2 K) d] that are queries, keys and values: views."""
    return qkv.split([s.H * s.d, s.K * s.d, s.K * s.d], dim=1)


def _heads(s: Shape, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n, (H + 2 K) d] → queries [B, T, H, d], keys and values [B, T, K, d]: views."""
    q, k, v = qkv.view(s.B, s.T, -1, s.d).split([s.H, s.K, s.K], dim=2)
    return q, k, v


def _add_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """residual fp32 [n, N] + x Wᵀ + b, in fp32."""
    out = torch.empty_like(residual)
    _call("linear", len(x), *weight.shape, x, weight, bias, None, 0, residual, out)
    return out


def _norm(s: Shape, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of x, bf16, and each row's mean and 1 / deviation."""
    out = torch.empty(x.shape, dtype=torch.bfloat16)
    mean, inverse = x.new_empty(2, len(x))
    _call("norm", *x.shape, x, weight, bias, s.epsilon, s.centre, out, mean, inverse)
    return out, mean, inverse


def _rotate(s: Shape, qkv: Tensor, cosine: Tensor | None, sine: Tensor | None, back: bool) -> None:
    """Turns the queries and keys of qkv in place."""
    if cosine is None:
        return
    period = cosine.numel() // s.d
    _call("rotate", len(qkv), s.H + s.K, s.d, qkv, qkv.stride(0), cosine, sine, period, back)
