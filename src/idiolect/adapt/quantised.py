"""Frozen linear layers whose matrix is kept in 8 or 4 bits and made anew wherever it is multiplied with.

QLoRA: Dettmers et al. 2023, arXiv 2305.14314, section 3. Shapes: x [..., K], weight [N, K], m blocks of 64 numbers.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from idiolect.models import fused

BLOCK = 64
"""Numbers that share a scale."""
SCALES = 256
"""Scales that share one of their own, where these are quantised, too."""
OFFSET = 0.9677083
"""The share of a normal distribution below its largest level: (1 - 1 / 30 + 1 - 1 / 32) / 2, as bitsandbytes has it."""


@functools.cache
def levels() -> Tensor:
    """NF4's 16 values, fp32, from -1 to 1: quantiles of a normal distribution, 0 among them (appendix E there).

    8 evenly spaced ones above 0 and 7 below, each half divided by the largest.
    """
    above = torch.special.ndtri(torch.linspace(OFFSET, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(OFFSET, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat((above, below, torch.zeros(1, dtype=torch.float64)))
    return (values / values.abs().max()).sort().values.float()


class Quantised(nn.Linear):
    """A linear layer that does not train, its matrix in blocks of codes, each with its largest absolute value."""

    codes: Tensor
    """int8 [m, 64], or for nf4 two in each uint8 [m, 32]."""
    scales: Tensor
    """fp32 [m], or where they are quantised uint8 [⌈m / 256⌉, 256]."""
    outer: Tensor | None
    """fp32 [⌈m / 256⌉, 2] where scales are quantised: the smallest of each 256, and the step between codes."""

    def __init__(self, linear: nn.Linear, kind: Literal["int8", "nf4"], double: bool = False) -> None:
        """Quantises a layer, and uses it up."""
        nn.Module.__init__(self)
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind, self.dtype = kind, weight.dtype
        self.bias = linear.bias
        m = -(-weight.numel() // BLOCK)
        blocks = F.pad(weight.float().flatten(), (0, m * BLOCK - weight.numel())).view(m, BLOCK)
        scales = blocks.abs().amax(1)
        shares = blocks / torch.where(scales > 0, scales, 1)[:, None]
        if kind == "int8":
            codes = (shares * 127).round().to(torch.int8)
        else:
            borders = (levels()[1:] + levels()[:-1]) / 2
            nearest = torch.bucketize(shares, borders.to(shares.device)).to(torch.uint8)
            codes = nearest[:, ::2] << 4 | nearest[:, 1::2]
        self.register_buffer("codes", codes)
        outer = None
        if double:
            rows = torch.cat((scales, scales[-1:].expand(-m % SCALES))).view(-1, SCALES)
            least = rows.amin(1, keepdim=True)
            step = (rows.amax(1, keepdim=True) - least) / 255
            scales = ((rows - least) / torch.where(step > 0, step, 1)).round().to(torch.uint8)
            outer = torch.cat((least, step), dim=1)
        self.register_buffer("scales", scales)
        self.register_buffer("outer", outer)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix that the codes stand for, [N, K]."""
        codes, scales = self.codes, self.scales
        if self.outer is not None:
            least, step = self.outer.unbind(1)
            scales = (least[:, None] + scales * step[:, None]).flatten()[: len(codes)]
        if self.kind == "int8":
            blocks = codes.float() * (scales / 127)[:, None]
        else:
            both = torch.stack((codes >> 4, codes & 15), dim=-1).view(len(codes), BLOCK)
            blocks = levels().to(codes.device)[both.int()] * scales[:, None]
        N, K = self.out_features, self.in_features
        return blocks.flatten()[: N * K].view(N, K).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """What the matrix takes."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.outer is None else self.outer.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        out: Tensor = _Product.apply(x, self)
        return out

    def plain(self) -> nn.Linear:
        """A plain layer of the same matrix."""
        found = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        found.weight = nn.Parameter(self.weight, requires_grad=False)
        found.bias = self.bias
        return found


class _Product(torch.autograd.Function):
    """x Wᵀ + b, W made for the forward pass and again for the backward pass and kept in neither."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantised) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return fused.affine(x, layer.weight, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return (dout @ ctx.layer.weight.to(dout.dtype)).to(ctx.dtype), None
