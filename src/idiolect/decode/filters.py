"""Filters: pure functions from logits to logits, all rows at once; a token that is filtered out has logit -inf.

Shapes: B rows, V vocabulary. `reshape` applies them in the one order of the house: penalties, temperature, top-k,
top-p, min-p. Each filter sees what the one before has left, so probabilities are those of the tokens still there.
Among equal logits the lowest id comes first, everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from idiolect.decode.settings import DecodeSettings

REMOVED = float("-inf")
FEW = 256
"""Ids that `top_p` looks at first, on a CPU."""


@dataclass
class Seen:
    """What the penalties need to know of each row's text."""

    prompt: Tensor
    """Whether an id stands in the prompt, bool [B, V]."""
    generated: Tensor
    """How often an id was generated, int64 [B, V]."""

    def add(self, ids: Tensor) -> None:
        """Counts one generated id a row, int64 [B], in place."""
        self.generated.scatter_add_(1, ids[:, None], torch.ones_like(ids)[:, None])

    def select(self, rows: Tensor) -> Seen:
        """Copies of the given rows, int64 [N]."""
        return Seen(self.prompt[rows], self.generated[rows])


def reshape(logits: Tensor, settings: DecodeSettings, seen: Seen | None = None) -> Tensor:
    """Logits [B, V] → the logits that are drawn from, [B, V]. `seen` is needed when a penalty is set."""
    logits = penalise(logits, settings, seen)
    logits = temperature(logits, settings.temperature)
    logits = top_k(logits, settings.top_k)
    logits = top_p(logits, settings.top_p)
    return min_p(logits, settings.min_p)


def penalise(logits: Tensor, settings: DecodeSettings, seen: Seen | None) -> Tensor:
    """The penalties alone, [B, V] → [B, V]; after them greedy decoding has only to take the highest."""
    if seen is None:
        return logits
    logits = repetition_penalty(logits, seen, settings.repetition_penalty)
    logits = presence_penalty(logits, seen, settings.presence_penalty)
    return frequency_penalty(logits, seen, settings.frequency_penalty)


def repetition_penalty(logits: Tensor, seen: Seen, penalty: float) -> Tensor:
    """Divides positive and multiplies negative logits of ids in the text so far, prompt included, by `penalty`.

    Keskar et al. 2019, arXiv 1909.05858, section 4.1, with the sign rule of its released code (a negative logit
    divided by a penalty > 1 would become more probable).
    """
    if penalty == 1:
        return logits
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen.prompt | (seen.generated > 0), penalised, logits)


def presence_penalty(logits: Tensor, seen: Seen, penalty: float) -> Tensor:
    """Subtracts `penalty` from the logit of every id generated so far."""
    return logits - penalty * (seen.generated > 0) if penalty else logits


def frequency_penalty(logits: Tensor, seen: Seen, penalty: float) -> Tensor:
    """Subtracts `penalty` from an id's logit once for each time it was generated."""
    return logits - penalty * seen.generated if penalty else logits


def temperature(logits: Tensor, tau: float) -> Tensor:
    """softmax(u / τ): τ = 1 changes nothing, τ → 0 approaches the most probable id, and τ = 0 is that id alone.

    The largest logit is subtracted before dividing, so that no τ > 0 overflows.
    """
    if tau == 1:
        return logits
    if tau == 0:
        return top_k(logits, 1)
    highest = logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)  # a row of -inf stays -inf
    return (logits - highest) / tau


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k ids of highest logit (Fan et al. 2018, arXiv 1805.04833); k = 0 or k ≥ V keeps all.

    Exactly k ids survive where at least k are possible: of those equal to the k-th, the lowest.
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return _highest(logits, k, logits.topk(k).values[..., -1:])


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of ids whose probability reaches p (Holtzman et al. 2020, arXiv 1904.09751, eq. 2).

    p = 1 keeps all. At least one id survives; of equal ones the lowest.
    """
    if p >= 1:
        return logits
    V = logits.shape[-1]
    count = min(V, FEW) if logits.device.type == "cpu" else V
    highest = logits.amax(-1, keepdim=True)
    mass = (logits - highest).exp().sum(-1, keepdim=True)  # as softmax has it: a log rounds 0.4 + 0.3 below 0.7
    while True:  # most often a few ids reach p, and to find these costs a hundredth of sorting all
        ordered = logits.topk(count).values
        reached = ((ordered - highest).exp() / mass).cumsum(-1)
        if count == V or bool((reached[..., -1] >= p).all()):
            break
        count = min(V, 8 * count)
    k = 1 + (reached[..., :-1] < p).sum(-1, keepdim=True)  # those that the more probable ones leave p to reach
    return _highest(logits, k, ordered.gather(-1, k - 1))


def _highest(logits: Tensor, k: int | Tensor, least: Tensor) -> Tensor:
    """Keeps the k highest of each row, the lowest of which is `least`, [..., 1]; of its equals the lowest ids."""
    kept = logits >= least
    if logits.device.type != "cpu" or bool((kept.sum(-1, keepdim=True) > k).any()):
        above = logits > least
        kept = above | (kept & ((kept & ~above).cumsum(-1) <= k - above.sum(-1, keepdim=True)))
    return logits.masked_fill(~kept, REMOVED)


def min_p(logits: Tensor, share: float) -> Tensor:
    """Keeps ids of at least `share` times the highest probability (Nguyen et al. 2024, arXiv 2407.01082); 0 keeps all.

    p_i ≥ share · p_max, compared as logits: u_i ≥ u_max + ln share.
    """
    if share == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(share), REMOVED)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One id a row, int64 [B], by inverse CDF: the lowest id whose cumulative probability exceeds uniform[b].

    Args:
        logits: [B, V], best in float64.
        uniform: [B] in [0, 1).
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]  # the sum may miss 1 by rounding
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)
