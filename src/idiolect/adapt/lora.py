"""Low-rank updates of linear layers: y = W x + b + s B A x, several of them by name, one at a time or none.

Hu et al. 2021, arXiv 2106.09685, section 4.1; DoRA: Liu et al. 2024, arXiv 2402.09353, eq. 5.
Shapes: x [..., K], W [N, K], A [r, K], B [N, r].
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from idiolect import seeds
from idiolect.adapt.edited import Edited, core, empty, fits, linears, matching, replace
from idiolect.adapt.quantised import Quantised
from idiolect.adapt.settings import LoraSettings
from idiolect.errors import UserError, nearest
from idiolect.models import fused
from idiolect.models.fused_block import LowRank

DEFAULT = ("attention.*", "cross.*", "mlp.gate", "mlp.up", "mlp.down")
"""The layers that are updated when nothing is said: all of attention and MLP."""
NAME = "default"
"""What an adapter is called that has no name, here as in `peft`."""


class Pair(nn.Module):
    """One update of a layer. B is 0 at first, so that nothing is added."""

    def __init__(self, linear: nn.Linear, settings: LoraSettings) -> None:
        super().__init__()
        self.scale = settings.scale
        self.A = empty(settings.rank, linear.in_features, like=linear.weight)
        self.B = empty(linear.out_features, settings.rank, like=linear.weight)
        self.dropout = nn.Dropout(settings.dropout)
        self.magnitude = empty(linear.out_features, like=linear.weight) if settings.dora else None

    @torch.no_grad()
    def draw(self, linear: nn.Linear, generator: torch.Generator) -> None:
        """A even in ±1/√K, as torch's and peft's own; B 0; magnitudes those of the layer's rows."""
        r, K = self.A.shape
        self.A.copy_((torch.rand(r, K, generator=generator) * 2 - 1) * K**-0.5)
        self.B.zero_()
        if self.magnitude is not None:
            self.magnitude.copy_(_lengths(linear.weight))

    def update(self) -> Tensor:
        """s B A, [N, K]."""
        return self.scale * (self.B @ self.A)

    def summed(self, weight: Tensor) -> Tensor:
        """W with the update in it, [N, K]."""
        total = weight + self.update()
        return total if self.magnitude is None else total * (self.magnitude / _lengths(total))[:, None]

    def forward(self, x: Tensor, linear: nn.Linear, out: Tensor) -> Tensor:
        """x [..., K] and what the layer makes of it [..., N] → [..., N].

        DoRA takes m / ‖W + s B A‖ times the sum without its bias; no gradient flows through that length (section 4.3
        there).
        """
        low = fused.affine(self.dropout(x), self.A)
        added = fused.affine(low * self.scale, self.B)
        if self.magnitude is None:
            return out + added
        ratio = self.magnitude / _lengths(linear.weight + self.update()).detach()
        without = out if linear.bias is None else out - linear.bias.to(out.dtype)
        return out + without * (ratio - 1).to(out.dtype) + added * ratio.to(out.dtype)


def _lengths(weight: Tensor) -> Tensor:
    """The length of each row: [N, K] → [N]."""
    return torch.linalg.vector_norm(weight, dim=1)


class Lora(Edited):
    """A linear layer with updates, of which one is active, or none; or merged into the layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.pairs = nn.ModuleDict()
        self.active: str | None = None
        self._unmerged: tuple[nn.Linear] | None = None  # in a tuple, lest it be a module of this one

    @property
    def merged(self) -> bool:
        """Whether the layer holds the sum."""
        return self._unmerged is not None

    def pair(self) -> Pair | None:
        """The active update, unless it is in the layer already."""
        if self.active is None or self.merged or self.active not in self.pairs:
            return None
        found = self.pairs[self.active]
        assert isinstance(found, Pair)
        return found

    def low_rank(self) -> tuple[nn.Linear, LowRank | None] | None:
        """The layer and its update, where these are all that there is to it (see `fused_block.form`)."""
        pair = self.pair()
        if type(self.linear) is not nn.Linear:
            return None
        if pair is None:
            return self.linear, None
        if pair.magnitude is not None or (self.training and pair.dropout.p):
            return None
        return self.linear, LowRank(pair.A, pair.B, pair.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        out, pair = fused.linear(self.linear, x), self.pair()
        if pair is None:
            return out
        added: Tensor = pair(x, self.linear, out)
        return added

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain layer with the active update in its matrix, in the type that the layer's is stored in."""
        pair = self.pair()
        if pair is None and not isinstance(self.linear, Quantised):
            return self.linear
        weight = self.linear.weight
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(weight if pair is None else pair.summed(weight), requires_grad=False)
        made.bias = self.linear.bias
        return made

    def merge(self) -> None:
        """Puts the active update into the layer, which is kept beside."""
        if not self.merged and self.pair() is not None:
            before, self.linear = self.linear, self.folded()
            self._unmerged = (before,)

    def unmerge(self) -> None:
        """Puts the layer itself back, to the bit."""
        if self._unmerged is not None:
            (self.linear,) = self._unmerged
            self._unmerged = None


def layers(model: nn.Module) -> dict[str, Lora]:
    """The layers with updates, by their names in the model without a head for labels."""
    return {name: module for name, module in core(model).named_modules() if isinstance(module, Lora)}


def targets(model: nn.Module, patterns: tuple[str, ...] | None) -> list[str]:
    """The layers to update. Raises UserError where a pattern fits none, or there are none at all."""
    names = [name.removesuffix(".linear") for name in linears(model)]
    if patterns is not None:
        return matching(names, patterns, "linear layer")
    found = [name for name in names if any(fits(name, pattern) for pattern in DEFAULT)]
    if not found:
        raise UserError("the model has no linear layers of attention or MLP", "name some in adapt.targets")
    return found


def add(model: nn.Module, settings: LoraSettings, *, seed: int = 0, name: str = NAME) -> list[str]:
    """Gives layers an update of that name, which becomes the active one; returns the names of what is new.

    Its numbers are drawn from (seed, their names) alone. Raises UserError for a name that cannot be, or is there.
    """
    return put(model, dict.fromkeys(targets(model, settings.targets), settings), name, seed)


def put(model: nn.Module, chosen: Mapping[str, LoraSettings], name: str, seed: int = 0) -> list[str]:
    """As `add`, for layers that each have settings of their own."""
    if not re.fullmatch(r"\w[\w-]*", name) or hasattr(nn.ModuleDict, name):
        raise UserError(f"{name!r} is no name for an adapter", "use letters, digits, - and _")
    if name in names(model):
        raise UserError(f"the model has an adapter called {name} already", "choose another name")
    unmerge(model)
    bare, new = core(model), []
    prefix = "" if bare is model else "base."
    for at, settings in chosen.items():
        module = bare.get_submodule(at)
        if not isinstance(module, Lora):
            assert isinstance(module, nn.Linear)
            module = Lora(module)
            replace(bare, at, module)
        pair = Pair(module.linear, settings)
        if pair.A.device.type != "meta":
            pair.draw(module.linear, seeds.generator(seed, "weights", f"{at}.{name}"))
        module.pairs[name] = pair.train(module.training)
        new += [f"{prefix}{at}.pairs.{name}.{part}" for part, _ in pair.named_parameters()]
    use(model, name)
    return new


def names(model: nn.Module) -> list[str]:
    """The adapters of a model."""
    return list(dict.fromkeys(name for lora in layers(model).values() for name in lora.pairs))


def active(model: nn.Module) -> str | None:
    """The adapter that acts; None when the base alone does."""
    return next((lora.active for lora in layers(model).values()), None)


def use(model: nn.Module, name: str | None) -> None:
    """Makes one adapter act, or with None the base alone. Raises UserError for one that is not there."""
    known = names(model)
    if name is not None and name not in known:
        there = ", ".join(known) or "none"
        raise UserError(f"the model has no adapter {name}{nearest(name, known)}", f"it has {there}")
    unmerge(model)
    for lora in layers(model).values():
        lora.active = name


@contextlib.contextmanager
def off(model: nn.Module) -> Iterator[None]:
    """Inside, the base alone acts."""
    before = active(model)
    use(model, None)
    try:
        yield
    finally:
        use(model, before)


def merge(model: nn.Module) -> None:
    """Puts the active updates into their layers: as fast as the base, and no gradients for them until `unmerge`."""
    for lora in layers(model).values():
        lora.merge()


def unmerge(model: nn.Module) -> None:
    """Takes all updates out again; every layer is what it was, to the bit."""
    for lora in layers(model).values():
        lora.unmerge()


def fold(model: nn.Module) -> None:
    """Makes a plain model of one with updates: the active ones are in its matrices for good."""
    bare = core(model)
    for name, lora in layers(model).items():
        lora.unmerge()
        replace(bare, name, lora.folded())
