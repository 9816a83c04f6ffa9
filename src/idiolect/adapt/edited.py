"""Modules that take the place of a linear layer and keep it inside, and the finding of layers by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from idiolect.adapt.heads import Labelled
from idiolect.adapt.quantised import Quantised
from idiolect.errors import UserError, nearest
from idiolect.models.layers import CappedHead


class Edited(nn.Module):
    """A linear layer with something added; who asks it for its weight gets that of the layer."""

    linear: nn.Linear

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    @property
    def weight(self) -> Tensor:
        """The layer's own, [N, K]."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The layer's own, [N]."""
        return self.linear.bias

    @property
    def in_features(self) -> int:
        """K."""
        return self.linear.in_features

    @property
    def out_features(self) -> int:
        """N."""
        return self.linear.out_features


def core(model: nn.Module) -> nn.Module:
    """The model without its head for labels, if it has one."""
    return model.base if isinstance(model, Labelled) else model


def fresh(model: nn.Module) -> list[str]:
    """The parameters that are new, and so train whatever is frozen: a head for labels, what has rows for new tokens."""
    if isinstance(model, Labelled):
        return [name for name, _ in model.named_parameters() if not name.startswith("base.")]
    return list(getattr(model, "fresh", ()))


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that something may be added to, by their names in the model without a head for labels.

    Not one that shares its weight with an embedding, which alone would no longer be what it shares.
    """
    bare: Any = core(model)
    shared = bare.shared() if hasattr(bare, "shared") else {}
    return {
        name: module
        for name, module in bare.named_modules()
        if type(module) in (nn.Linear, CappedHead, Quantised) and f"{name.removesuffix('.linear')}.weight" not in shared
    }


def within_blocks(names: Iterable[str]) -> list[str]:
    """Of names of modules, those that lie in the blocks of a transformer."""
    return [name for name in names if name.startswith("blocks.") or ".blocks." in name]


def matching(names: Collection[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names that one of the patterns is, or ends; `*` stands for anything.

    Raises UserError for a pattern that fits no name, with what could have been meant.
    """
    found = {pattern: [name for name in names if fits(name, pattern)] for pattern in patterns}
    for pattern, some in found.items():
        if not some:
            mend = f"there are {', '.join(sorted({_shape(name) for name in names}))}" if names else "use another kind"
            raise UserError(f"no {what} is called {pattern}{nearest(pattern, names)}", mend)
    chosen = {name for some in found.values() for name in some}
    return [name for name in names if name in chosen]


def fits(name: str, pattern: str) -> bool:
    """Whether a dotted name, or what stands behind one of its points, is of the pattern."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _shape(name: str) -> str:
    """A name with a star for each number."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts `new` in the place of the module of that name, in its mode."""
    parent, _, leaf = name.rpartition(".")
    place = model.get_submodule(parent)
    setattr(place, leaf, new.train(place.training))


def numbers(parameters: Iterable[Tensor]) -> int:
    """How many numbers tensors hold."""
    return sum(parameter.numel() for parameter in parameters)


def empty(*shape: int, like: Tensor) -> nn.Parameter:
    """A parameter yet to be filled, in the type and on the device of `like`."""
    return nn.Parameter(torch.empty(shape, dtype=like.dtype, device=like.device))
