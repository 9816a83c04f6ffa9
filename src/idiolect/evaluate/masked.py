"""How well a model fills in hidden tokens of held-out text, beside a guess that knows only how common each is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from idiolect.data.batch import IGNORE, Batch
from idiolect.errors import UserError
from idiolect.evaluate.score import finite, scoring

NO_PROBABILITY = "it fills in what is hidden and gives no probability to a whole text"
"""Why a model that fills in has neither perplexity nor bits per byte."""


@dataclass(frozen=True)
class Filled:
    """What became of the tokens to fill in."""

    loss: float
    """Nats a token, whether it was hidden, replaced or left as it was."""
    accuracy: float
    """The share of those under a mask for which the likeliest token is the right one."""
    tokens: int
    """Tokens to fill in."""
    masks: int
    """Those under a mask."""

    def json(self) -> dict[str, Any]:
        """The fields, and those that other families have, as JSON can hold them."""
        figures = {key: finite(value) for key, value in vars(self).items()}
        return {**figures, "perplexity": None, "bits_per_byte": None, "reason": NO_PROBABILITY}


def fill_in(model: Any, batches: Iterable[Batch], mask_id: int) -> Filled:
    """Fills in held-out batches (`data.masking.held_out_masks`). Raises UserError when nothing is hidden in them."""
    nats, tokens, right, masks = 0.0, 0, 0, 0
    with scoring(model) as device:
        for batch in (batch.to(device) for batch in batches):
            chosen = batch.labels != IGNORE
            labels, masked = batch.labels[chosen], batch.ids[chosen] == mask_id  # [N]
            hidden = model.body(batch.ids, batch.lengths, batch.segments)[chosen]
            logits = model.head(model.transform(hidden)).float()
            nats += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int(((logits.argmax(-1) == labels) & masked).sum())
            tokens, masks = tokens + len(labels), masks + int(masked.sum())
    return _filled(nats, tokens, right, masks)


def unigram(counts: np.ndarray, batches: Iterable[Batch], mask_id: int) -> Filled:
    """The same by a guess that is always the most frequent token; p(w) = (c(w) + 1) / (N + V).

    counts: of each id in the training text, int64 [V], zero for those that are never to be filled in.
    """
    logs = torch.from_numpy(np.log(counts + 1) - math.log(counts.sum() + len(counts)))
    guess, nats, tokens, right, masks = int(counts.argmax()), 0.0, 0, 0, 0
    for batch in batches:
        chosen = batch.labels != IGNORE
        labels, masked = batch.labels[chosen], batch.ids[chosen] == mask_id
        nats -= float(logs[labels].sum())
        right += int(((labels == guess) & masked).sum())
        tokens, masks = tokens + len(labels), masks + int(masked.sum())
    return _filled(nats, tokens, right, masks)


def _filled(nats: float, tokens: int, right: int, masks: int) -> Filled:
    if not masks:
        raise UserError("nothing is hidden in the held-out text", "hold out a larger share, or give a validation file")
    return Filled(nats / tokens, right / masks, tokens, masks)
