"""Bottleneck adapters after attention and MLP.

Houlsby et al. 2019, arXiv 1902.00751, section 2.1. Shapes: y [..., N], N the width of the residual stream, w that of
the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect import seeds
from idiolect.adapt.edited import Edited, core, empty, fits, linears, replace
from idiolect.adapt.settings import AdapterSettings
from idiolect.errors import UserError
from idiolect.models import fused

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "swish": F.silu,
}
PLACES = {"attention": ("attention.out", "cross.out"), "mlp": ("mlp.down",)}
"""The layers that a sublayer ends with, so that what stands after them stands after it."""
STD = 0.01
"""Deviation of D's first weights (section 3.6 there)."""


class Bottleneck(Edited):
    """y = W x + b and then y + U f(D y + c) + e. U and e are 0 at first, so that nothing is added."""

    def __init__(self, linear: nn.Linear, settings: AdapterSettings) -> None:
        super().__init__(linear)
        N, w, like = linear.out_features, settings.width, linear.weight
        self.active = ACTIVATIONS[settings.activation]
        self.down, self.down_bias = empty(w, N, like=like), empty(w, like=like)
        self.up, self.up_bias = empty(N, w, like=like), empty(N, like=like)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """D normal, all else 0."""
        self.down.copy_(torch.randn(self.down.shape, generator=generator) * STD)
        for part in (self.down_bias, self.up, self.up_bias):
            part.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        y = fused.linear(self.linear, x)
        return y + fused.affine(self.active(fused.affine(y, self.down, self.down_bias)), self.up, self.up_bias)


def add(model: nn.Module, settings: AdapterSettings, *, seed: int = 0) -> list[str]:
    """Puts adapters after the sublayers; returns the names of what is new.

    Raises UserError where a block has no such sublayer, as a mixture of experts has none that ends in one layer.
    """
    bare, new = core(model), []
    prefix = "" if bare is model else "base."
    known = linears(model)
    for place in settings.places:
        found = [name for name in known if any(fits(name, end) for end in PLACES[place])]
        if not found:
            raise UserError(f"the model has no {place} that an adapter could stand after", "use adapt.kind=lora")
        for name in found:
            adapter = Bottleneck(known[name], settings)
            if adapter.down.device.type != "meta":
                adapter.draw(seeds.generator(seed, "weights", f"{name}.adapter"))
            replace(bare, name, adapter)
            new += [f"{prefix}{name}.{part}" for part, _ in adapter.named_parameters(recurse=False)]
    return new


def adapters(model: nn.Module) -> dict[str, Bottleneck]:
    """The layers with an adapter after them, by their names in the model without a head for labels."""
    return {name: module for name, module in core(model).named_modules() if isinstance(module, Bottleneck)}
