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


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled operations; None on a machine without a C++ compiler."""
    return native.load(Path(__file__).with_suffix(".cpp"))


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


def attention(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None = None) -> Tensor:
    """Causal softmax(Q Kᵀ / √d) V: q [B, T, H, d], k and v [B, T, K, d], all bf16 → [B, T, H, d].

    first int32 [B, T], when given, is the first position that each query reads; it reads on to its own.
    """
    return _Attention.apply(q, k, v, first)


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

    Where labels int64 [n] are negative, loss and gradient are 0.
    """
    loss = torch.empty(len(logits), dtype=torch.float32)
    _call("cross_entropy", len(logits), logits.shape[1], logits, labels, loss)
    return loss


def _call(name: str, *arguments: Any) -> None:
    """Calls an operation: tensors by their addresses, which must be contiguous; the threads are torch's."""
    values: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            argument = ctypes.c_void_p(argument.data_ptr())
        elif isinstance(argument, int):
            argument = ctypes.c_long(argument)
        elif isinstance(argument, float):
            argument = ctypes.c_float(argument)
        values.append(argument)
    found = library()
    assert found is not None
    getattr(found, name)(*values, ctypes.c_int(torch.get_num_threads()))


def _activate(kind: str, inputs: Sequence[Tensor]) -> Tensor:
    out = torch.empty_like(inputs[-1])
    _call(kind, out.numel(), *inputs, out)
    return out


def _activate_backward(kind: str, inputs: Sequence[Tensor], dout: Tensor) -> list[Tensor]:
    gradients = [torch.empty_like(x) for x in inputs]
    _call(f"{kind}_backward", dout.numel(), *inputs, dout.contiguous(), *gradients)
    return gradients


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, *inputs: Tensor) -> Tensor:
        ctx.kind, inputs = kind, tuple(x.contiguous() for x in inputs)
        ctx.save_for_backward(*inputs)
        return _activate(kind, inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_activate_backward(ctx.kind, ctx.saved_tensors, dout)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, kind: str, *inputs: Tensor) -> Tensor:
        ctx.kind, inputs = kind, tuple(x.contiguous() for x in inputs)
        low = weight.to(torch.bfloat16)
        ctx.save_for_backward(low, *inputs)
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            return F.linear(_activate(kind, inputs), low, None if bias is None else bias.to(torch.bfloat16))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        low, *inputs = ctx.saved_tensors
        rows = dout.reshape(-1, dout.shape[-1])
        hidden = _activate(ctx.kind, inputs)
        dweight = rows.t() @ hidden.view(len(rows), -1)
        dhidden = torch.mm(rows, low, out=hidden.view(len(rows), -1)).view_as(hidden)
        of_weight, of_bias = ctx.types
        dbias = None if of_bias is None else rows.sum(0, dtype=of_bias)
        return dweight.to(of_weight), dbias, None, *_activate_backward(ctx.kind, inputs, dhidden)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, centre: bool) -> Tensor:
        x, D = x.contiguous(), x.shape[-1]
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        mean, inverse = x.new_empty(2, x.numel() // D)
        _call("norm", len(mean), D, x, weight, bias, epsilon, ctypes.c_int(centre), out, mean, inverse)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.centre, ctx.biased = ctypes.c_int(centre), bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        n, D = len(mean), x.shape[-1]
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        dbias = torch.empty_like(weight) if ctx.biased else None
        parts = x.new_empty(-(-n // ROWS_A_PART), 2, D)
        given = (x, weight, mean, inverse, ctx.centre, dout.contiguous())
        _call("norm_backward", n, D, *given, dx, parts, dweight, dbias)
        return dx, dweight, dbias, None, None


ROWS_A_PART = 64
"""Rows whose gradients of a norm's weight are summed together; fused.cpp's number of that name."""


class _Shape(ctypes.Structure):
    """fused.cpp's Attention."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("B", "T", "H", "K", "d")),
        *((name, ctypes.c_long * 3) for name in ("q", "k", "v")),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int),
    )


def _shape(q: Tensor, k: Tensor, v: Tensor) -> Any:
    B, T, H, d = q.shape
    strides = [(ctypes.c_long * 3)(*x.stride()[:3]) for x in (q, k, v)]
    return ctypes.byref(_Shape(B, T, H, k.shape[2], d, *strides, d**-0.5, torch.get_num_threads()))


def _pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p | None]:
    return [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        B, T, H, _ = q.shape
        out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(B, H, T, dtype=torch.float32)
        found = library()
        assert found is not None
        found.attention(_shape(q, k, v), *_pointers(q, k, v, first, out, lse))
        ctx.save_for_backward(q, k, v, first, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, first, out, lse = ctx.saved_tensors
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
        found = library()
        assert found is not None
        given = _pointers(q, k, v, first, out, lse, dout.contiguous())
        found.attention_backward(_shape(q, k, v), *given, *_pointers(dq, dk, dv))
        return dq, dk, dv, None
