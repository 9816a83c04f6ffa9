"""From a source to the target a sequence-to-sequence model writes, and what it read of the source meanwhile.

Shapes: S positions of a source, T tokens of a target, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idiolect.data.examples import in_order
from idiolect.decode.generate import Completion, complete
from idiolect.decode.read import device_of, still
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.models.contract import LanguageModel

POSITIONS = 1 << 12
"""Positions of sources that are answered at once."""


def source_ids(model: LanguageModel, tokenizer: Any, text: str) -> Tensor:
    """A text as a source, int64 [S]: its tokens and the end of the text. Raises UserError when it is too long."""
    ids = [*tokenizer.encode(text), tokenizer.end_id]
    most = getattr(model, "longest_source", model.settings.longest_source)  # type: ignore[attr-defined]
    if most is not None and len(ids) > most:
        raise UserError(f"the text has {len(ids)} tokens, the model reads at most {most}", "shorten it, or cut it up")
    return torch.tensor(ids)


def start_id(settings: Any, tokenizer: Any) -> int:
    """The id that targets of a model begin with: its own where it has one, else the tokenizer's begin-of-text."""
    own: int | None = getattr(settings, "start_id", None)
    begin: int = tokenizer.begin_id
    return begin if own is None else own


def translate(
    model: LanguageModel, tokenizer: Any, sources: Sequence[Tensor], settings: DecodeSettings
) -> list[Completion]:
    """The target of each source, ids [S] or frames [S, F]; those of about the same length in one batch.

    Source i draws as request i, whatever is beside it. Raises UserError as `complete` does.
    """
    found: dict[int, Completion] = {}
    prompt = [start_id(model.settings, tokenizer)]
    for group in in_order(np.array([len(source) for source in sources]), POSITIONS):
        rows = group.tolist()
        answers = complete(
            model, tokenizer, [prompt] * len(rows), settings, rows, sources=[sources[row] for row in rows]
        )
        found |= zip(rows, answers, strict=True)
    return [found[row] for row in range(len(sources))]


def alignments(model: Any, tokenizer: Any, source: Tensor, ids: Sequence[int]) -> Tensor:
    """What was read of a source [S] to write each token of a target, ids [T] without the first: [L, H, T, S].

    Raises UserError for a model without attention.
    """
    read = torch.tensor([start_id(model.settings, tokenizer), *ids[:-1]])
    with still(model):
        weights: Tensor = model.alignments(read.to(device_of(model)), source.to(device_of(model)))
    return weights.float().cpu()
