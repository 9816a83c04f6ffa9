"""The verb `embed`: a text as one vector.

B texts, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from idiolect.adapt.heads import Labelled
from idiolect.data.examples import in_order
from idiolect.data.padding import pad
from idiolect.decode.read import device_of
from idiolect.decode.settings import Pool, Precision
from idiolect.decode.verbs import load_with_tokenizer
from idiolect.errors import UserError, nearest
from idiolect.models import layers
from idiolect.models.build import Model
from idiolect.models.contract import Network, SequenceToSequence, last_positions
from idiolect.models.encoder import Encoder
from idiolect.tokens.tokenizer import Tokenizer

ROWS = 1 << 12
"""Positions read at once (at least one text)."""


def embed(
    model: Path | str,
    text: str | Sequence[str],
    *,
    pool: Pool = "mean",
    normalise: bool = False,
    precision: Precision = "stored",
) -> dict[str, Any]:
    """The "embedding" of a text, a list of D numbers; of several texts, their "embeddings".

    pool: the mean of the last layer over all tokens, those that mark the text's ends included; or the first ("cls") or
    the last token's. normalise: divided by its length (Euclidean). Raises UserError for a model without such vectors
    and for a text that is too long.
    """
    if pool not in get_args(Pool):
        raise UserError(f"there is no pooling {pool}{nearest(pool, get_args(Pool))}", "use mean, cls or last")
    loaded = load_with_tokenizer(model, precision)
    assert loaded.tokenizer is not None
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise UserError("there is no text to embed", "give one or more texts")
    network = loaded.model.base if isinstance(loaded.model, Labelled) else loaded.model
    if not _reads(network):
        raise UserError(
            f"{model} is of the family {loaded.settings.kind}, which makes no vector of a whole text",
            "use an encoder, or a network that reads from left to right",
        )
    found = embeddings(network, loaded.tokenizer, texts, pool, normalise).tolist()
    return {"embedding": found[0]} if isinstance(text, str) else {"embeddings": found}


def _reads(model: Model) -> TypeGuard[Network]:
    """Whether it is a network that reads one text, all of it or from left to right."""
    if isinstance(model, Encoder):
        return True
    return isinstance(model, Network) and not model.refusal and not isinstance(model, SequenceToSequence)


@torch.no_grad()
def embeddings(
    model: Network, tokenizer: Tokenizer, texts: Sequence[str], pool: Pool = "mean", normalise: bool = False
) -> Tensor:
    """A vector for each text, float32 [B, D] on the CPU; what it is does not depend on the other texts."""
    rows = [tokenizer.framed(tokenizer.encode(text)) for text in texts]
    out = torch.empty(len(rows), model.settings.width)
    for group in in_order(np.array([len(row) for row in rows]), ROWS):
        ids, lengths = (part.to(device_of(model)) for part in pad([rows[i] for i in group], tokenizer.pad_id))
        out[group] = pooled(hidden(model, ids, lengths), lengths, pool).cpu()
    return F.normalize(out, dim=-1) if normalise else out


def hidden(model: Any, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The last layer's vectors: ids [B, T] → [B, T, D]; what is at or past lengths [B] means nothing."""
    if isinstance(model, Encoder):
        return model.body(ids, lengths)
    out: Tensor = model.body(layers.blank(ids, lengths))  # it looks to the left only, where no padding is
    return out


def pooled(hidden: Tensor, lengths: Tensor, pool: Pool) -> Tensor:
    """Vectors [B, T, D] of rows of lengths [B] → [B, D], float32."""
    x = hidden.float()
    if pool == "cls":
        return x[:, 0]
    if pool == "last":
        return last_positions(x, lengths)[:, 0]
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return (x * real[..., None]).sum(1) / lengths[:, None]
