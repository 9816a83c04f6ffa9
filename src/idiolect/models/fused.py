"""Training operations in bf16 on a CPU, each one call into `fused.cpp`; what they compute, and when they may be used.

They exist where torch's own CPU kernels are slow: its attention keeps half of two cores waiting, its activations and
norms pass over memory several times. Inputs they are not made for (another device or type, no C++ compiler here) take
torch's operations; callers ask `usable` first. Shapes: B rows, T positions, D width, H query heads, K key/value heads,
d head width, V vocabulary, n positions of any arrangement.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from idiolect import native

ACTIVATIONS = ("swiglu", "gelu")
"""The kinds of MLP whose activation is here."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled operations; None on a machine without a C++ compiler."""
    return native.load(Path(__file__).with_suffix(".cpp"))


@functools.cache
def products() -> bool:
    """Whether this machine's products are `product` and its kin; CPUs with matrix units leave them to torch."""
    found = library()
    return found is not None and bool(found.products_work())


def usable(x: Tensor) -> bool:
    """Whether x, as autocast would hand it to a product, is bf16 on a CPU, and the operations are there.

    A graph that torch.compile traces has none of them.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype == torch.bfloat16 and x.dtype in (torch.float32, torch.bfloat16) and library() is not None


def attends(x: Tensor, d: int) -> bool:
    """Whether `attention` can take heads of width d made of x: it needs a CPU that multiplies bf16 by itself."""
    if d % 16 or not usable(x):
        return False
    found = library()
    return found is not None and bool(found.attention_works())


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` can take x [..., K] and weight [N, K]: bf16 by this CPU's vector units, from fp32 weights."""
    rows, K = x.numel() // x.shape[-1], weight.shape[1]
    if K % 2 or rows < FEWEST_ROWS or weight.dtype != torch.float32 or not weight.is_contiguous() or not usable(x):
        return False
    return products()


def plain(layer: nn.Module) -> bool:
    """Whether calling a module is nothing but its own forward: no hook waits for the call."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return not any(hooks)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), x [..., K] → bf16 [..., N]; a plain nn.Linear in one call that reads its fp32 weights as they lie.

    So no copies of the weights in bf16 are made and kept, and their gradients come in fp32.
    """
    if type(layer) is nn.Linear and plain(layer) and multiplies(x, layer.weight):
        return _Linear.apply(x, layer.weight, layer.bias)
    out: Tensor = layer(x)
    return out


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b of weights that are no module's own: x [..., K], weight [N, K] → [..., N]; as `linear` otherwise."""
    return _Linear.apply(x, weight, bias) if multiplies(x, weight) else F.linear(x, weight, bias)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: Tensor | None = None,
    *,
    causal: bool = True,
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale Q Kᵀ + bias) V: q [B, T, H, d], k and v [B, S, K, d], all bf16 → [B, T, H, d].

    Causal queries (S = T) read on to their own position; first int32 [B, T], when given, is where each begins.
    Others read all keys, or the first lengths[b] of them (int32 [B], none below 1). bias fp32 [H, T, S] is for all
    rows; scale is 1 / √d when unset.
    """
    return _Attention.apply(q, k, v, bias, first, lengths, causal, scale)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel 2016, section 2), bf16 to bf16 of any shape."""
    return _Activation.apply("gelu", x)


def swiglu(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) · x (Shazeer 2020), bf16 to bf16 of any shape."""
    return _Activation.apply("swiglu", gate, x)


def activated(linear: nn.Linear, kind: str, *inputs: Tensor) -> Tensor:
    """linear(gelu(x)) or linear(swiglu(gate, x)), keeping only the inputs: the activation is made again for backward.

    It costs less to compute than the memory it would take between its layer's forward and backward.
    """
    return _Activated.apply(linear.weight, linear.bias, kind, *inputs)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, centre: bool) -> Tensor:
    """LayerNorm (`centre`) or RMSNorm over the last dimension: x fp32 [..., D], weight and bias [D] → bf16 [..., D]."""
    return _Norm.apply(x, weight, bias, epsilon, centre)


def cross_entropy_(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], fp32 [n]; logits bf16 [n, V] become softmax - onehot, the gradient, in place.

    Where labels int64 [n] are negative, loss and gradient are 0. The rows may lie further apart than V; what lies
    between them becomes 0.
    """
    loss = torch.empty(len(logits), dtype=torch.float32)
    address = ctypes.c_void_p(logits.data_ptr())
    _call("cross_entropy", len(logits), logits.shape[1], address, logits.stride(0), labels, loss)
    return loss


def product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """out = x Wᵀ + b: x bf16 [n, K], weight fp32 [N, K], bias fp32 [N] or None, out bf16 [n, N]; see `multiplies`.

    The rows of out may lie further apart than N.
    """
    N, K = weight.shape
    address = ctypes.c_void_p(out.data_ptr())
    _call("linear", len(x), N, K, x, weight, bias, address, out.stride(0), None, None)
    return out


def product_input(dout: Tensor, weight: Tensor, dx: Tensor, other: Tensor | None = None) -> Tensor:
    """dx = dout W (+ other): dout bf16 [n, N], dx and other bf16 [n, K], which may be one.

    Where N is odd, dout's rows must be further apart, with 0 between.
    """
    N, K = weight.shape
    assert N % 2 == 0 or dout.stride(0) > N
    _call("linear_input", len(dout), N, K, ctypes.c_void_p(dout.data_ptr()), dout.stride(0), weight, other, dx)
    return dx


def product_weight(dout: Tensor, x: Tensor, into: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
    """doutᵀ x, fp32 [N, K], of dout bf16 [n, N] and x bf16 [n, K]; added to `into` where it is given.

    `sums` fp32 [N] takes the sums of dout's columns, which are the gradient of a bias, in the same way.
    """
    out = torch.empty(dout.shape[1], x.shape[1]) if into is None else into
    address, add = ctypes.c_void_p(dout.data_ptr()), into is not None
    _call("linear_weight", len(x), *out.shape, address, dout.stride(0), x, out, sums, add)
    return out


def lstm(x: Tensor, vectors: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A layer of an LSTM: x [B, T, E], hidden and cell before it [2, B, D] → bf16 [B, T, D], the vectors after it.

    weights: of the input [4 D, E] and of the hidden vector [4 D, D], both of even rows, and the bias [4 D]; gates in
    torch's order.
    """
    return _Lstm.apply(x, vectors, *weights)


def product_add(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """residual + x Wᵀ + b, all in fp32 but x: residual fp32 [n, N], x bf16 [n, K], weight [N, K], bias [N] or None."""
    out = torch.empty_like(residual)
    _call("linear", len(x), *weight.shape, x, weight, bias, None, 0, residual, out)
    return out


def rotate_(x: Tensor, heads: int, cosine: Tensor, sine: Tensor, back: bool = False) -> None:
    """Turns the first `heads` heads of each row of x, bf16 [n, D], in place, as `layers.rotate` does; `back` undoes it.

    Tables fp32 [..., d], contiguous, of n rows in all or of a period that the rows repeat.
    """
    d = cosine.shape[-1]
    _call("rotate", len(x), heads, d, x, x.stride(0), cosine, sine, cosine.numel() // d, back)


def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, centre: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`norm` of a contiguous x [..., D], and what its backward pass needs: each row's mean and 1 / deviation, [n]."""
    out, n = torch.empty(x.shape, dtype=torch.bfloat16), x.numel() // x.shape[-1]
    mean, inverse = x.new_empty(2, n)
    _call("norm", n, x.shape[-1], x, weight, bias, epsilon, centre, out, mean, inverse)
    return out, mean, inverse


def norm_backward(
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse: Tensor,
    biased: bool,
    centre: bool,
    dout: Tensor,
    past: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """(d/dx fp32, the same rounded to bf16, d/dweight, d/dbias if `biased`) of dout bf16, contiguous, x's shape.

    `past` fp32, the gradient that reaches x past the norm, is added to d/dx; without it nothing is rounded (None).
    """
    n, D = len(mean), x.shape[-1]
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)
    dbias, low = torch.empty_like(weight) if biased else None, None if past is None else torch.empty_like(dout)
    parts = x.new_empty(-(-n // ROWS_A_PART), 2, D)
    _call("norm_backward", n, D, x, weight, mean, inverse, centre, dout, past, dx, low, parts, dweight, dbias)
    return dx, low, dweight, dbias


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: Tensor | None,
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`attention`, whose heads' numbers lie side by side, and fp32 [B, H, T], the log of each row's sum."""
    B, T, H, _ = q.shape
    assert lengths is None or not causal
    assert bias is None or (bias.is_contiguous() and bias.shape == (H, T, k.shape[1]))
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(B, H, T, dtype=torch.float32)
    _loaded().attention(_shape(q, k, v, causal, scale), *_pointers(q, k, v, first, lengths, bias, out, lse))
    return out, lse


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    into: Sequence[Tensor],
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor | None:
    """Writes the gradients of q, k and v `into` tensors that lie as they do; dout [B, T, H, d] is contiguous.

    Returns the gradient of the bias, if there is one.
    """
    dbias = None if bias is None else torch.zeros_like(bias)
    pointers = _pointers(q, k, v, first, lengths, bias, out, lse, dout, *into, dbias)
    _loaded().attention_backward(_shape(q, k, v, causal, scale), *pointers)
    return dbias


def _loaded() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found


def _call(name: str, *arguments: Any) -> None:
    """Calls an operation: tensors by their addresses, which must be contiguous; the threads are torch's."""
    values: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            argument = ctypes.c_void_p(argument.data_ptr())
        elif isinstance(argument, bool):
            argument = ctypes.c_int(argument)
        elif isinstance(argument, int):
            argument = ctypes.c_long(argument)
        elif isinstance(argument, float):
            argument = ctypes.c_float(argument)
        values.append(argument)
    getattr(_loaded(), name)(*values, ctypes.c_int(torch.get_num_threads()))


def activate(kind: str, inputs: Sequence[Tensor]) -> Tensor:
    """gelu(x) or swiglu(gate, x) of inputs (x) or (gate, x), bf16 and contiguous."""
    out = torch.empty_like(inputs[-1])
    _call(kind, out.numel(), *inputs, out)
    return out


def activate_backward(kind: str, inputs: Sequence[Tensor], dout: Tensor) -> list[Tensor]:
    """The gradients of the inputs of `activate`; dout becomes the activation itself."""
    gradients = [torch.empty_like(x) for x in inputs]
    _call(f"{kind}_backward", dout.numel(), *inputs, dout, *gradients)
    return gradients


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, vectors: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        B, T, D = *x.shape[:2], vectors.shape[-1]
        rows, vectors = _rows(x), vectors.float().contiguous()
        gates = product(rows, weight, bias, rows.new_empty(B * T, 4 * D))
        hidden, cells, after = rows.new_empty(B, T, D), vectors.new_empty(B, T, D), vectors.clone()
        _call("lstm", B, T, D, gates, recurrent, after, hidden, cells)
        ctx.save_for_backward(rows, vectors, weight, recurrent, gates, hidden, cells)
        ctx.type = x.dtype
        return hidden, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dhidden: Tensor, dafter: Tensor) -> tuple[Tensor | None, ...]:
        rows, vectors, weight, recurrent, gates, hidden, cells = ctx.saved_tensors
        B, T, D = hidden.shape
        dgates, dvectors = torch.empty_like(gates), dafter.clone(memory_format=torch.contiguous_format)
        _call("lstm_backward", B, T, D, gates, recurrent, vectors[1], cells, dhidden.contiguous(), dgates, dvectors)
        dx = product_input(dgates, weight, torch.empty_like(rows)).to(ctx.type).view(B, T, -1)
        dbias = weight.new_empty(len(weight))
        dweight = product_weight(dgates, rows, sums=dbias)
        before = torch.cat((vectors[0, :, None].to(hidden.dtype), hidden[:, :-1]), dim=1)
        return dx, dvectors, dweight, product_weight(dgates, before.view(B * T, D)), dbias


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, *inputs: Tensor) -> Tensor:
        ctx.kind, inputs = kind, tuple(x.contiguous() for x in inputs)
        ctx.save_for_backward(*inputs)
        return activate(kind, inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        dout = dout.clone(memory_format=torch.contiguous_format)
        return None, *activate_backward(ctx.kind, ctx.saved_tensors, dout)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = _rows(x)
        ctx.save_for_backward(rows, weight)
        ctx.type, ctx.bias = x.dtype, None if bias is None else bias.dtype
        return _product(rows, weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        d = _rows(dout)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = _product_input(d, weight).to(ctx.type).view(*dout.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            dweight = _product_weight(d, rows, weight)
        if ctx.needs_input_grad[2]:
            dbias = d.sum(0, dtype=ctx.bias)
        return dx, dweight, dbias


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, kind: str, *inputs: Tensor) -> Tensor:
        ctx.kind, inputs = kind, tuple(x.contiguous() for x in inputs)
        ctx.save_for_backward(weight, *inputs)
        ctx.bias = None if bias is None else bias.dtype
        hidden = activate(kind, inputs)
        return _product(_rows(hidden), weight, bias).view(*hidden.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        d = _rows(dout)
        hidden = _product_input(d, weight)  # d/dhidden, until the next line makes it hidden
        gradients = activate_backward(ctx.kind, inputs, hidden)
        dweight = _product_weight(d, hidden, weight) if ctx.needs_input_grad[0] else None
        dbias = d.sum(0, dtype=ctx.bias) if ctx.needs_input_grad[1] else None
        return dweight, dbias, None, *gradients


def _rows(x: Tensor) -> Tensor:
    """x [..., K] → bf16 [n, K], its rows side by side."""
    return x.reshape(-1, x.shape[-1]).to(torch.bfloat16).contiguous()


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Our product or torch's, whichever this CPU is fast at."""
    if multiplies(rows, weight):
        return product(rows, weight, bias, rows.new_empty(len(rows), len(weight)))
    with torch.autocast("cpu", enabled=False):
        return F.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))


def _product_input(dout: Tensor, weight: Tensor) -> Tensor:
    if multiplies(dout, weight) and len(weight) % 2 == 0:
        return product_input(dout, weight, dout.new_empty(len(dout), weight.shape[1]))
    return dout @ weight.to(dout.dtype)


def _product_weight(dout: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    if multiplies(rows, weight):
        return product_weight(dout, rows)
    return (dout.t() @ rows).to(weight.dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, centre: bool) -> Tensor:
        x = x.contiguous()
        out, *moments = norm_forward(x, weight, bias, epsilon, centre)
        ctx.save_for_backward(x, weight, *moments)
        ctx.centre, ctx.biased = centre, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        given = (x, weight, mean, inverse, ctx.biased, ctx.centre)
        dx, _, dweight, dbias = norm_backward(*given, dout.contiguous())
        return dx, dweight, dbias, None, None


FEWEST_ROWS = 6
"""Rows that a product takes at a time (fused.cpp's STRIP)."""
ROWS_A_PART = 64
"""Rows whose gradients of a norm's weight are summed together; fused.cpp's number of that name."""


class _Shape(ctypes.Structure):
    """fused.cpp's Attention."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("B", "T", "S", "H", "K", "d")),
        *((name, ctypes.c_long * 3) for name in ("q", "k", "v")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


def _shape(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Any:
    (B, T, H, d), (_, S, K, _) = q.shape, k.shape
    assert not causal or T == S
    strides = [(ctypes.c_long * 3)(*x.stride()[:3]) for x in (q, k, v)]
    scale = d**-0.5 if scale is None else scale
    return ctypes.byref(_Shape(B, T, S, H, K, d, *strides, scale, causal, torch.get_num_threads()))


def _pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p | None]:
    return [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        first: Tensor | None,
        lengths: Tensor | None,
        causal: bool,
        scale: float | None,
    ) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out, lse = attention_forward(q, k, v, first, lengths, bias, causal, scale)
        ctx.save_for_backward(q, k, v, first, out, lse, lengths, bias)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, first, out, lse, lengths, bias = ctx.saved_tensors
        gradients = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) for x in (q, k, v)]
        given = (q, k, v, first, out, lse, dout.contiguous(), gradients)
        dbias = attention_backward(*given, lengths, bias, ctx.causal, ctx.scale)
        return *gradients, dbias, None, None, None, None
