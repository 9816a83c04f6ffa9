"""Mixtures of experts: many MLPs in the place of one, of which each token goes through a few.

Shapes: n tokens, D width, E experts, k experts a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from idiolect.models.decoder_settings import ExpertSettings
from idiolect.models.layers import Mlp
from idiolect.models.settings import TransformerSettings


class Experts(nn.Module):
    """Σ over a token's k most probable experts e of p(e) · e(x), with p = softmax(W x) (Shazeer et al. 2017, eq. 1).

    As Mixtral (Jiang et al. 2024, arXiv 2401.04088, section 2.1), where the k weights are divided by their sum, or as
    Qwen2-MoE, where they are not, and σ(w x) times a shared expert is added. No token is dropped: an expert reads
    all that are sent to it, and nothing else.
    """

    def __init__(self, settings: TransformerSettings, experts: ExpertSettings) -> None:
        super().__init__()
        self.per_token, self.normalised = experts.per_token, experts.normalised
        self.router = nn.Linear(settings.width, experts.count, bias=False)
        self.experts = nn.ModuleList(Mlp(settings, experts.width) for _ in range(experts.count))
        if experts.shared_width is not None:
            self.shared = Mlp(settings, experts.shared_width)
            self.shared_gate = nn.Linear(settings.width, 1, bias=False)
        self.routed: tuple[Tensor, Tensor] | None = None
        """While training: the last call's probabilities, fp32 [n, E], and experts chosen, int64 [n, k]."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] → [B, T, D]."""
        rows = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):  # close calls between experts are not left to rounding
            probabilities = self.router(rows.to(self.router.weight.dtype)).float().softmax(-1)
        weights, chosen = probabilities.topk(self.per_token, dim=-1)
        if self.training:
            self.routed = probabilities, chosen
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        made = self._read(rows, chosen)
        out = (made * weights[..., None].to(made.dtype)).sum(1)
        if hasattr(self, "shared"):
            out = out + torch.sigmoid(self.shared_gate(rows)) * self.shared(rows)
        return out.view(x.shape)

    def _read(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """What each token's experts make of it: rows [n, D], chosen [n, k] → [n, k, D]; an expert's tokens together."""
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        parts = zip(self.experts, rows[order // self.per_token].split(counts))
        made = torch.cat([expert(part) for expert, part in parts if len(part)])
        return torch.empty_like(made).index_copy(0, order, made).view(*chosen.shape, -1)


def balance(probabilities: Tensor, chosen: Tensor, real: Tensor | None = None) -> Tensor:
    """How uneven the load of the experts is: E Σ_e f_e P_e, at least about k, which is even load.

    Switch Transformers (Fedus et al. 2021, arXiv 2101.03961, eq. 4 to 6), for k experts a token as in Mixtral and
    Qwen-MoE: f_e is how many of the k choices of a token fall on expert e, P_e its probability, both means over the
    `real` tokens (bool [n]; all when None). probabilities [n, E], chosen [n, k]. Only P has a gradient.

    One layer's. transformers takes both means over the tokens of all layers before it multiplies them, so that one
    layer's favourite expert makes up for another's; here each layer has its own product, as in the paper.
    """
    if real is not None:
        probabilities, chosen = probabilities[real], chosen[real]
    n, E = max(1, len(chosen)), probabilities.shape[-1]
    return E * (chosen.flatten().bincount(minlength=E) / n * probabilities.sum(0) / n).sum()
