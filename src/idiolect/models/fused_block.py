"""A transformer block trained in bf16 on a CPU: forward and backward written out as calls into `fused.cpp`.

What torch would do in some hundred operations, each with its dispatch, its copy and its pass over memory, is about
twenty calls: the residual stream stays in fp32 and is added to by the products themselves, norms add the gradient that
passes them by. Which blocks it is for, `layers.Block.fuses` says.
Shapes: B rows, T positions, n = B T, D width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from idiolect.models import fused

Rope = tuple[Tensor, Tensor]


class LowRank(NamedTuple):
    """What is added to a linear layer: scale · B A x."""

    A: Tensor
    """[r, K]."""
    B: Tensor
    """[N, r]."""
    scale: float

    def added(self, weight: Tensor) -> Tensor:
        """W + scale · B A, [N, K], in W's own type even under autocast."""
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight, self.B, self.A, alpha=self.scale)


class Part(NamedTuple):
    """A linear layer or a norm."""

    weight: Any
    bias: Any
    A: Any = None
    """With B and the scale, a layer's low-rank update."""
    B: Any = None
    scale: float = 1.0


def form(layer: nn.Module) -> tuple[nn.Linear, LowRank | None] | None:
    """A layer as a linear one and what is added to it; None when it is something else.

    A module that stands in the place of a linear layer says so itself, in a method `low_rank`.
    """
    if type(layer) is nn.Linear:
        return layer, None
    found = getattr(layer, "low_rank", None)
    return None if found is None else found()


def takes(layer: nn.Module, x: Tensor) -> bool:
    """Whether a block of inputs like x can have the layer: its products, and its update's, are `fused.product`s."""
    found = form(layer)
    if found is None or not fused.plain(found[0]):
        return False
    linear, update = found
    weights = [linear.weight, *((update.A, update.B) if update else ())]
    fit = all(fused.multiplies(x, w) if w is linear.weight else _fits(w) for w in weights)
    return fit and all(len(w) % 2 == 0 for w in weights)


def _fits(weight: Tensor) -> bool:
    return weight.shape[1] % 2 == 0 and weight.dtype == torch.float32 and weight.is_contiguous()


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
    parts = [_part(part) for part in (norm, block.mlp_norm, *block.linears())]
    scales = tuple(part.scale for part in parts)
    parameters = [p for part in parts for p in part[:WIDE]]
    tables = (None, None) if rope is None else (rope[0].contiguous(), rope[1].contiguous())
    out: Tensor = _Block.apply(shape, scales, x, *tables, first, *parameters)
    return out


WIDE = 4
"""Tensors of a part."""


def _part(module: nn.Module) -> Part:
    found = form(module)
    if found is None:  # a norm
        return Part(module.weight, getattr(module, "bias", None))
    linear, update = found
    return Part(linear.weight, linear.bias, *((None, None, 1.0) if update is None else update))


def _parts(parameters: Sequence[Any], scales: Sequence[float]) -> list[Part]:
    tensors = [parameters[i : i + WIDE] for i in range(0, len(parameters), WIDE)]
    return [Part._make((*some, scale)) for some, scale in zip(tensors, scales)]


class _Block(torch.autograd.Function):
    """Takes the tensors of each part: both norms, query, key, value, out, up, down and perhaps gate."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Shape,
        scales: tuple[float, ...],
        x: Tensor,
        cosine: Tensor | None,
        sine: Tensor | None,
        first: Tensor | None,
        *parameters: Any,
    ) -> Tensor:
        norm1, norm2, query, key, value, out, up, down, *gate = _parts(parameters, scales)
        rows = x.contiguous().view(-1, x.shape[-1])
        n1, *moments1 = fused.norm_forward(rows, *norm1[:2], s.epsilon, s.centre)
        qkv = n1.new_empty(len(rows), (s.H + 2 * s.K) * s.d)
        for part, to in zip((query, key, value), _projections(s, qkv)):
            _product(n1, part, to)
        if cosine is not None and sine is not None:
            fused.rotate_(qkv, s.H + s.K, cosine, sine)
        heads, lse = fused.attention_forward(*_heads(s, qkv), first)
        middle = _product_add(rows, heads.view(len(rows), -1), out)
        n2, *moments2 = fused.norm_forward(middle, *norm2[:2], s.epsilon, s.centre)
        inputs = [_product(n2, part, n2.new_empty(len(n2), len(part.weight))) for part in (*gate, up)]
        result = _product_add(middle, fused.activate(s.mlp, inputs), down)
        ctx.shape, ctx.scales = s, scales
        kept = (rows, n1, *moments1, qkv, heads, lse, middle, n2, *moments2, *inputs)
        ctx.save_for_backward(cosine, sine, first, *parameters, *kept)
        ctx.parameters = len(parameters)
        return result.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine, first, *saved = ctx.saved_tensors
        parameters, saved = saved[: ctx.parameters], saved[ctx.parameters :]
        norm1, norm2, query, key, value, out, up, down, *gate = _parts(parameters, ctx.scales)
        x, n1, mean1, inverse1, qkv, heads, lse, middle, n2, mean2, inverse2, *inputs = saved
        s, gradients = ctx.shape, _Gradients(ctx, parameters)
        past = dout.contiguous().view(len(x), -1)
        d = past.to(torch.bfloat16)
        hidden, low = _product_input(d, down, d.new_empty(len(d), down.weight.shape[1]))
        dinputs = fused.activate_backward(s.mlp, inputs, hidden)
        gradients.linear(down, d, hidden, low)  # which is the activation by now
        dn = gradients.inputs(zip((*gate, up), dinputs), n2)
        past, d = gradients.norm(s, norm2, (middle, mean2, inverse2), dn, past)
        flat = heads.view(len(x), -1)
        dheads, low = _product_input(d, out, torch.empty_like(flat))
        gradients.linear(out, d, flat, low)
        dqkv = torch.empty_like(qkv)
        fused.attention_backward(*_heads(s, qkv), first, heads, lse, dheads, _heads(s, dqkv))
        if cosine is not None:
            fused.rotate_(dqkv, s.H + s.K, cosine, sine, back=True)
        dn = gradients.inputs(zip((query, key, value), _projections(s, dqkv)), n1)
        dx, _ = gradients.norm(s, norm1, (x, mean1, inverse1), dn, past)
        return None, None, dx.view_as(dout), None, None, None, *gradients.found


class _Gradients:
    """The gradients of a block's parameters as they are found; None for those that may not train."""

    def __init__(self, ctx: Any, parameters: Sequence[Tensor | None]) -> None:
        wanted = ctx.needs_input_grad[-len(parameters) :]
        self.place = {id(p): i for i, p in enumerate(parameters) if p is not None and wanted[i]}
        self.found: list[Tensor | None] = [None] * len(parameters)

    def linear(self, part: Part, dout: Tensor, x: Tensor, dlow: Tensor | None) -> None:
        """Those of a linear layer that made dout's [n, N] of x [n, K]; dlow [n, r] is that of A x, if it has an A."""
        weight, bias, A, B = (self.place.get(id(p)) for p in part[:WIDE])
        if dlow is not None and A is not None:
            self.found[A] = fused.product_weight(dlow, x)
        if B is not None:
            self.found[B] = fused.product_weight(dout, _low(x, part))
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
            dx, dlow = _product_input(dout, part, torch.empty_like(x) if dx is None else dx, dx)
            self.linear(part, dout, x, dlow)
        assert dx is not None
        return dx

    def norm(
        self, s: Shape, part: Part, given: tuple[Tensor, Tensor, Tensor], dout: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Those of a norm of x, given (x, mean, inverse); returns past + d/dx, in fp32 [n, D] and rounded to bf16."""
        (weight, bias), (x, mean, inverse) = part[:2], given
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


def _low(x: Tensor, part: Part) -> Tensor:
    """scale · A x of x bf16 [n, K] → bf16 [n, r]."""
    return fused.product(x, part.A, None, x.new_empty(len(x), len(part.A))).mul_(part.scale)


def _product(x: Tensor, part: Part, out: Tensor) -> Tensor:
    """What a linear layer makes of x bf16 [n, K], into out [n, N]; its rows may lie further apart than N."""
    fused.product(x, part.weight, part.bias, out)
    if part.A is not None:
        out += fused.product(_low(x, part), part.B, None, x.new_empty(out.shape))
    return out


def _product_add(residual: Tensor, x: Tensor, part: Part) -> Tensor:
    """The same added to a residual fp32 [n, N], in fp32."""
    out = fused.product_add(residual, x, part.weight, part.bias)
    return out if part.A is None else fused.product_add(out, _low(x, part), part.B, None)


def _product_input(dout: Tensor, part: Part, dx: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(d/dx (+ other), d/d(A x) if there is an A) of dout bf16 [n, N]."""
    dx = fused.product_input(dout, part.weight, dx, other)
    if part.A is None:
        return dx, None
    dlow = fused.product_input(dout, part.B, dout.new_empty(len(dout), len(part.A))).mul_(part.scale)
    return fused.product_input(dlow, part.A, dx, dx), dlow
