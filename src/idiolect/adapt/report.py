"""What an edit did to a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from idiolect.adapt.quantised import Quantised


@dataclass(frozen=True)
class Report:
    """What an edit touched, and what training will move after it."""

    touched: tuple[str, ...]
    """Parameters and modules that are new, changed or gone."""
    trainable: int
    """Numbers that training moves."""
    total: int
    """Numbers in all parameters, those of quantised matrices among them."""
    bytes: int
    """Bytes of the parameters that training moves."""
    full: int = 0
    """Numbers that full fine-tuning would move: all that there were before the edit."""
    saved: int = 0
    """Bytes of memory that the quantising of frozen weights saves."""

    @classmethod
    def of(cls, model: nn.Module, touched: tuple[str, ...], full: int = 0, saved: int = 0) -> Report:
        """The report of an edit that touched these, read off the edited model."""
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        numbers = sum(parameter.numel() for parameter in moving)
        total = sum(parameter.numel() for parameter in model.parameters()) + _packed(model)
        return cls(touched, numbers, total, sum(parameter.nbytes for parameter in moving), full or numbers, saved)

    def line(self) -> str:
        """What trains, of what full fine-tuning would train and of all there is: "4608 / 32768 / 85.9% fewer …"."""
        share = f"{self.trainable / self.total:.2%} of {self.total} parameters train, {self.bytes} bytes"
        saved = f"; quantising saves {self.saved} bytes" if self.saved else ""
        return f"{self.trainable} / {self.full} / {1 - self.trainable / self.full:.1%} fewer; {share}{saved}"

    def json(self) -> dict[str, Any]:
        """The figures, for results and metrics."""
        found = {key: getattr(self, key) for key in ("trainable", "total", "bytes", "full", "saved")}
        return found | {"share": self.trainable / self.total, "fewer": 1 - self.trainable / self.full}


def _packed(model: nn.Module) -> int:
    """Numbers of matrices that are no parameters, as they are quantised."""
    found = [module for module in model.modules() if isinstance(module, Quantised)]
    return sum(module.in_features * module.out_features for module in found)
