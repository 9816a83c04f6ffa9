"""Arithmetic of forward and backward: autocast for bf16 and fp16 over fp32 weights, and the scale that fp16 needs."""

from __future__ import annotations

import contextlib
import math

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def forward(precision: str, device: str) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: products in `precision`, sums and norms in fp32 (torch's autocast)."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=DTYPES[precision])


class Scale:
    """What the loss is multiplied by before backward, so that small fp16 gradients do not vanish; 1 otherwise.

    Micikevicius et al. 2018, section 3.2: halved when a gradient overflows (that step is left out), doubled after
    GROWTH clean steps. A power of two, so scaling and unscaling are exact.
    """

    GROWTH = 1000

    def __init__(self, precision: str) -> None:
        self.dynamic = precision == "fp16"
        self.value = 2.0**16 if self.dynamic else 1.0
        self.clean = 0

    def accepts(self, norm: float) -> bool:
        """Whether the optimiser may move on gradients of this norm; adapts the scale.

        False asks the loop to leave out the step. When there is no more room to halve (or nothing to scale), an
        overflow is the model's own: True, and the loop's guard against it decides.
        """
        finite = math.isfinite(norm)
        if not self.dynamic or (not finite and self.value <= 1):
            return True
        self.clean = self.clean + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.clean == self.GROWTH:
            self.value, self.clean = self.value * 2, 0
        return finite

    def state(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"value": self.value, "clean": self.clean}

    def load_state(self, state: dict[str, float]) -> None:
        """From the checkpoint."""
        self.value, self.clean = float(state["value"]), int(state["clean"])
