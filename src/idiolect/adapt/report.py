"""What an edit did to a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Report:
    """What an edit touched, and what training will move after it."""

    touched: tuple[str, ...]
    """Parameters and modules that are new, changed or gone."""
    trainable: int
    """Numbers that training moves."""
    total: int
    """Numbers in all parameters."""
    bytes: int
    """Bytes of the parameters that training moves."""

    @classmethod
    def of(cls, model: nn.Module, touched: tuple[str, ...]) -> Report:
        """The report of an edit that touched these, read off the edited model."""
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        numbers = sum(parameter.numel() for parameter in moving)
        total = sum(parameter.numel() for parameter in model.parameters())
        return cls(touched, numbers, total, sum(parameter.nbytes for parameter in moving))
