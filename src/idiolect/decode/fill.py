"""The verb `fill`: what stands under the masks of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from idiolect.decode.read import device_of
from idiolect.decode.settings import Precision
from idiolect.decode.verbs import load_with_tokenizer
from idiolect.errors import UserError
from idiolect.interop.folder import Loaded
from idiolect.models.encoder import Encoder
from idiolect.tokens.tokenizer import Tokenizer

MASK = re.compile(r"\[mask\]|<mask>|<\|mask\|>", re.IGNORECASE)
"""How a mask is written in a text, whatever the tokenizer calls its own."""
WITH_SPACES = ("bpe", "unigram")
"""Kinds of tokenizer whose words hold the space before them: it lies under the mask, too."""


def fill(model: Path | str, text: str, *, top: int = 5, precision: Precision = "stored") -> dict[str, Any]:
    """The `top` likeliest tokens under each mask of a text (<mask> or [MASK], however capitalised).

    Returns "candidates" ({"token", "id", "probability"}, the likeliest first) of the first mask, "masks", those of
    each, and "text", filled in with the likeliest. Masks are filled independently of one another. Raises UserError for
    a model that cannot fill in, and a text without a mask or too long for the model.
    """
    if top < 1:
        raise UserError(f"cannot show {top} candidates", "ask for at least 1")
    loaded = load_with_tokenizer(model, precision)
    encoder, tokenizer = filler(loaded, model)
    parts = MASK.split(text)
    if len(parts) == 1:
        raise UserError("the text has no mask", "write <mask> where a word is hidden")
    ids = torch.tensor([masked_ids(tokenizer, parts)], device=device_of(encoder))
    with torch.no_grad():
        hidden = encoder.body(ids)[ids == tokenizer.mask_id]  # [masks, D]
        logits = encoder.head(encoder.transform(hidden)).double().cpu()
    masks = [_candidates(row, tokenizer, top) for row in logits.softmax(-1)]
    filled = parts[0] + "".join(found[0]["token"] + part for found, part in zip(masks, parts[1:], strict=True))
    return {"text": filled, "candidates": masks[0], "masks": masks}


def filler(loaded: Loaded, name: Path | str) -> tuple[Encoder, Tokenizer]:
    """The model and the tokenizer, as ones that fill in. Raises UserError, saying why, where they cannot."""
    model, tokenizer = loaded.model, loaded.tokenizer
    use = "use a model that fills in, such as one trained by the recipe bert"
    if not isinstance(model, Encoder):
        raise UserError(f"{name} is of the family {loaded.settings.kind}, which fills nothing in", use)
    if model.settings.head == "none":
        raise UserError(f"{name} holds no head that fills in, only what is below it", f"{use}, or `idiolect embed`")
    if tokenizer is None or tokenizer.mask_id is None or tokenizer.mask_id >= model.vocabulary:
        raise UserError(f"{name} has no mask token", use)
    return model, tokenizer


def masked_ids(tokenizer: Tokenizer, parts: Sequence[str]) -> list[int]:
    """The framed ids of a text's parts with a mask between each two."""
    assert tokenizer.mask_id is not None
    ids: list[int] = []
    for number, part in enumerate(parts):
        if number:
            ids.append(tokenizer.mask_id)
        last = number == len(parts) - 1
        ids += tokenizer.encode(part if last or tokenizer.kind not in WITH_SPACES else part.rstrip(" "))
    return tokenizer.framed(ids)


def _candidates(probabilities: torch.Tensor, tokenizer: Tokenizer, top: int) -> list[dict[str, Any]]:
    """The likeliest tokens that stand for text, of probabilities [V]; ties go to the lowest id."""
    known = probabilities[: tokenizer.size].masked_fill(~torch.from_numpy(tokenizer.content[: len(probabilities)]), -1)
    ids = known.sort(descending=True, stable=True).indices[: min(top, int((known >= 0).sum()))].tolist()
    return [
        {"token": piece.strip() or piece, "id": id_, "probability": float(known[id_])}
        for id_, piece in zip(ids, tokenizer.pieces(ids), strict=True)
    ]
