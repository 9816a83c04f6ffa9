"""Low-rank updates of a matrix, and the modules that have them: W + s B A.

Hu et al. 2021, arXiv 2106.09685, section 4.1; DoRA: Liu et al. 2024, arXiv 2402.09353, eq. 5.
Shapes: x [..., K], W [N, K], A [r, K], B [N, r]. An embedding of V rows of width D has N = V and K = D.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect.adapt.edited import Edited, empty
from idiolect.adapt.quantised import Quantised
from idiolect.adapt.settings import LoraSettings
from idiolect.models import fused
from idiolect.models.fused_block import LowRank
from idiolect.models.layers import CappedHead


class Pair(nn.Module):
    """One update of a matrix. B is 0 at first, so that nothing is added."""

    def __init__(self, weight: Tensor, settings: LoraSettings) -> None:
        super().__init__()
        N, K = weight.shape
        self.scale = settings.scale
        self.A = empty(settings.rank, K, like=weight)
        self.B = empty(N, settings.rank, like=weight)
        self.dropout = nn.Dropout(settings.dropout)
        self.magnitude = empty(N, like=weight) if settings.dora else None

    @torch.no_grad()
    def draw(self, weight: Tensor, generator: torch.Generator) -> None:
        """A even in ±1/√K, as torch's and peft's own; B 0; magnitudes those of the matrix's rows."""
        r, K = self.A.shape
        self.A.copy_((torch.rand(r, K, generator=generator) * 2 - 1) * K**-0.5)
        self.B.zero_()
        if self.magnitude is not None:
            self.magnitude.copy_(_lengths(weight))

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


class Updated(nn.Module):
    """A layer whose matrix has updates, of which one is active, or none; or merged into the layer."""

    linear: Any
    """The layer itself."""
    pairs: nn.ModuleDict
    """Its updates, by name."""

    def __init__(self, linear: nn.Module, pairs: nn.ModuleDict | None = None) -> None:
        """pairs: those of another layer of the same matrix, which they stay modules of."""
        nn.Module.__init__(self)
        self.linear = linear
        if pairs is None:
            self.pairs = nn.ModuleDict()
        else:
            object.__setattr__(self, "pairs", pairs)
        self.active: str | None = None
        self._unmerged: tuple[nn.Module] | None = None  # in a tuple, lest it be a module of this one

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

    def summed(self) -> nn.Parameter:
        """The matrix with the active update in it, in the type that it is stored in."""
        pair, weight = self.pair(), self.linear.weight
        return nn.Parameter(weight if pair is None else pair.summed(weight), requires_grad=False)

    def folded(self) -> nn.Module:
        """A plain layer with the active update in its matrix."""
        raise NotImplementedError

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


class Lora(Updated, Edited):
    """A linear layer with updates."""

    def low_rank(self) -> tuple[nn.Linear, LowRank | None] | None:
        """The layer and its update, where these are all that there is to it (see `fused_block.form`)."""
        pair = self.pair()
        if type(self.linear) not in (nn.Linear, CappedHead):
            return None
        if pair is None:
            return self.linear, None
        if pair.magnitude is not None or (self.training and pair.dropout.p):
            return None
        return self.linear, LowRank(pair.A, pair.B, pair.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        pair, linear = self.pair(), self.linear
        if pair is None:
            return fused.linear(linear, x)
        if isinstance(linear, CappedHead):
            return linear.capped(pair(x, linear, fused.affine(x, linear.weight)))
        added: Tensor = pair(x, linear, fused.linear(linear, x))
        return added

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """A plain layer with the active update in its matrix."""
        if self.pair() is None and not isinstance(self.linear, Quantised):
            plain: nn.Linear = self.linear
            return plain
        K, N = self.in_features, self.out_features
        with torch.device("meta"):
            capped = isinstance(self.linear, CappedHead)
            made = CappedHead(K, N, self.linear.softcap) if capped else nn.Linear(K, N, bias=False)
        made.weight, made.bias = self.summed(), self.linear.bias
        return made


class Rows(Updated):
    """An embedding with updates: the vector of id i is W[i] + s B[i] A.

    `peft` has them, too (lora_embedding_A is Bᵀ there, lora_embedding_B Aᵀ). Nothing is dropped of an id.
    """

    @property
    def weight(self) -> Tensor:
        """The embedding's own, [V, D]."""
        found: Tensor = self.linear.weight
        return found

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] → [..., D]."""
        pair = self.pair()
        out: Tensor = self.linear(ids)
        return out if pair is None else out + fused.affine(F.embedding(ids, pair.B) * pair.scale, pair.A.t())

    @torch.no_grad()
    def folded(self) -> nn.Embedding:
        """A plain embedding with the active update in its matrix."""
        if self.pair() is None:
            plain: nn.Embedding = self.linear
            return plain
        with torch.device("meta"):
            made = nn.Embedding(*self.weight.shape)
        made.weight = self.summed()
        return made
